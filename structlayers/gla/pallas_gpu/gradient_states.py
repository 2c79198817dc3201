"""What gradients of a chunk have from states: values, cotangents and states come, products start.

Values and cotangents stand in rows of 128 bytes, permuted as states are. The products are those of
warpgroups: each of them has 64 channels, and each thread 32 results of queries and of keys. Those
with the state that is stored are under way while the one made for the others is written.
"""

import contextlib
import copy
import functools
from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Pair, each
from structlayers.gla.pallas_gpu.gradient_layout import PANEL_BYTES, STAGES, Plan
from structlayers.gla.pallas_gpu.gradient_pairs import Pairs
from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, ROWS, VALUE_TILE, permuted


class States(Pairs):
    """What the block's program does with values and states."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        super().__init__(plan, machine, inputs)
        self.slabs = plan.sizes.key // 64
        self.asked: dict[str, list[Any]] = {}

    def ask(self) -> None:
        """Asks for all that is loaded first, before anything is waited for."""
        m = self.machine
        gates, queries = self.load_gate_words(), super().load_queries()
        self.asked = {"gates": gates, "queries": queries, "keys": super().load_keys()}
        self.fetch_states(m.constant(0))
        for stage in range(self.plan.row_stages):
            if stage < STAGES:
                self.fetch_neighbour(m.constant(stage))
            self.fetch_rows(m.constant(stage))
            m.commit_loads()
        # last, as compilers move no arithmetic of what was loaded before their branches
        self.fetch_image()
        for stage in range(1, STAGES):
            self.fetch_states(m.constant(stage))

    @override
    def load_gates(self) -> list[Pair]:
        words = self.asked.pop("gates", None)
        return super().load_gates() if words is None else list(map(self.base_2, words))

    @override
    def load_queries(self) -> list[Any]:
        return self.asked.pop("queries", None) or super().load_queries()

    @override
    def load_keys(self) -> list[Any]:
        return self.asked.pop("keys", None) or super().load_keys()

    def fetch_states(self, step: Int) -> None:
        """Starts the copies of 64 values of both states, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(STAGES)
        tiles, size = sizes.value // VALUE_TILE, plan.state_bytes
        barrier, start = stage * 8 + plan.barriers_at, stage * (2 * size) + plan.stages_at
        with m.when((step < tiles) & m.thread().equals(0)):
            m.barrier_expect(barrier, 2 * size)
            row, zero = self.state_row * tiles + step, m.constant(0)
            for i, states in enumerate((self.states, self.pulled)):
                m.copy_in(start + i * size, states, row, size, zero, size, barrier)
        m.reconverge()

    def fetch_rows(self, step: Int) -> None:
        """Starts the copies of 64 values and their cotangents, if there are any."""
        plan = self.plan
        start = step.modulo(plan.row_stages) * (2 * PANEL_BYTES) + plan.rows_at
        self.copy_rows(step, start, self.chunk, slice(None))

    def prefetch_later(self) -> None:
        """Brings what a later block loads into the L2, by one thread."""
        m, sizes, later = self.machine, self.sizes, copy.copy(self)
        index = m.cluster() + MULTIPROCESSORS
        with m.when((index < sizes.sequences * sizes.chunks) & m.thread().equals(0)):
            later.locate(index)
            later.prefetch()
        m.reconverge()

    def prefetch(self) -> None:
        """Brings states, and this head's share of a full chunk of all heads, into the L2."""
        m, sizes = self.machine, self.sizes
        size = sizes.value * sizes.key * 2
        for i, states in enumerate((self.states, self.pulled)):
            # the other block of a pair brings the other one
            wanted = self.stored.equals(i) | self.alone if sizes.paired else None
            with contextlib.nullcontext() if wanted is None else m.when(wanted):
                m.prefetch_bulk(states, self.state_row, size, size)
        with m.when(self.chunk < sizes.time // CHUNK):
            token, parts, size = self.place(0)[0], sizes.parts, 2 * sizes.value
            group, head = self.group.divide(parts), self.head.divide(parts)
            pieces = [
                (self.gate, sizes.groups, self.group, 4 * sizes.key),
                (self.q, sizes.heads, self.head, 2 * sizes.key),
                (self.k, sizes.groups, self.group, 2 * sizes.key),
                (self.values, sizes.groups // parts, group, size),
                (self.cotangents, sizes.heads // parts, head, size),
            ]
            for array, count, head, pitch in pieces:
                m.prefetch_bulk(array, token * count + head * CHUNK, pitch, CHUNK * pitch)

    # products with states -------------------------------------------------------------------

    def read_values(self) -> tuple[list[Any], list[Any]]:
        """Gradients of weighted queries and keys by the states; those of scores, as a tile."""
        m, plan, tiles = self.machine, self.plan, self.sizes.value // VALUE_TILE
        others = 32 + 8 * (4 // self.slabs)

        def wait(_: Int, carried: Sequence[Any]) -> Sequence[Any]:
            m.wait_loads(plan.row_stages - 2)  # the first 64 values started no copies
            return carried

        def fetch(index: Int, _: Int, carried: Sequence[Any]) -> Sequence[Any]:
            self.fetch_states(index + 1)
            self.fetch_neighbour(index + 1)
            m.commit_loads()
            self.fetch_rows(index + (plan.row_stages - 1))
            m.commit_loads()
            return carried

        def add(index: Int, carried: Sequence[Any]) -> list[Any]:
            stored, missing, sums = carried[:others], carried[others : others + 32], carried[-8:]
            stage = index.modulo(STAGES)
            m.barrier_wait(stage * 8 + plan.barriers_at, index.divide(STAGES) & 1)
            m.wait_loads(plan.row_stages - 1)
            later = self.flag(index >= 1)
            m.loop(0, later, 1, wait)
            m.release_to_copies()
            m.synchronize()
            states = stage * (2 * plan.state_bytes) + plan.stages_at
            rows = index.modulo(plan.row_stages) * (2 * PANEL_BYTES) + plan.rows_at
            m.loop(0, later, 1, functools.partial(fetch, index))
            made = self.start_missing(index, states)
            stored = self.multiply_stored(stored, states, rows)
            self.finish_missing(made, states)
            missing = self.multiply_missing(missing, states, rows)
            sums = self.multiply_states(sums, states)
            return [*m.warpgroup_wait(0, [*stored, *missing]), *sums]

        self.await_image()
        carried = m.loop(0, tiles, 1, add, [m.zero()] * (others + 40))
        m.synchronize()
        self.store_scores(carried[32:others])
        self.store_state_sums(carried[-8:])
        stored, missing = carried[:32], carried[others : others + 32]
        if not self.sizes.paired:
            return list(stored), list(missing)
        first = self.stored.equals(0)
        pairs = [
            (m.select(first, x, y), m.select(first, y, x))
            for x, y in zip(stored, missing, strict=True)
        ]
        queries, keys = zip(*pairs, strict=True)
        return list(queries), list(keys)

    def multiply_stored(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts the products of 64 values with the stored state, and of scores.

        Cotangents with states before and values, or values with gradients of states after and
        cotangents, which are scores transposed.
        """
        m, plan, blocks, count = self.machine, self.plan, 4 // self.slabs, len(found)
        left = self.left_rows((self.stored ^ 1) * PANEL_BYTES + rows)
        tokens = rows + self.stored * PANEL_BYTES + self.slab * (blocks * ROWS * 128)
        start = states + self.stored * plan.state_bytes + self.slab * PANEL_BYTES
        made = m.warpgroup_begin([*found, *left])
        results, scores, left = made[:32], made[32:count], made[count:]
        for i in range(4):
            words = left[4 * i : 4 * i + 4]
            scores = m.warpgroup_product(scores, words, tokens + 32 * i, transpose=False, panel=0)
            at = start + i * ROWS * 128
            results = m.warpgroup_product(results, words, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return [*results, *scores]

    def multiply_missing(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts those of 64 cotangents, or values, with the other state."""
        m, plan = self.machine, self.plan
        made = m.warpgroup_begin([*found, *self.left_rows(rows + self.stored * PANEL_BYTES)])
        results, left = made[:32], made[32:]
        start = states + (self.stored ^ 1) * plan.state_bytes + self.slab * PANEL_BYTES
        for i in range(4):
            at, words = start + i * ROWS * 128, left[4 * i : 4 * i + 4]
            results = m.warpgroup_product(results, words, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return results

    def left_rows(self, start: Int) -> list[Any]:
        """Left operands: this warp's rows by 64 values."""
        places = self.operands(self.rows * (ROWS * 128) + start, rows_first=True)
        m = self.machine
        return [word for place in places for word in m.load_matrices(place, transpose=False)]

    def store_scores(self, scores: Sequence[Any]) -> None:
        """Gradients of scores in this warp's rows and columns of its slab, as a tile."""
        if not self.sizes.paired:
            self.store_scores_of(scores, transposed=False)
            return
        for stored in range(2):
            with self.machine.when(self.stored.equals(stored)):
                self.store_scores_of(scores, transposed=stored == 1)
        self.machine.reconverge()

    def store_scores_of(self, scores: Sequence[Any], *, transposed: bool) -> None:
        """Those of cotangents by values, or of values by cotangents."""
        blocks = 4 // self.slabs
        for block in range(blocks):
            column = self.slab * blocks + block
            below = (self.rows - column) * ROWS
            found = scores[8 * block : 8 * block + 8]
            if transposed:
                found = self.where(lambda row, col, below=below: col >= below + row, found)
                self.store_block(self.plan.scores_at, column, self.rows, found, transpose=True)
            else:
                found = self.where(lambda row, col, below=below: col < below + row + 1, found)
                self.store_block(self.plan.scores_at, self.rows, column, found)

    def state_group(self) -> tuple[Int, Int]:
        """Of the products of both states this thread's values modulo 16, and 8 channels.

        A warpgroup has those of its slab, which it has made itself.
        """
        thread = self.machine.thread()
        return thread >> 3 & 15, thread & 7 | self.slab * 8

    def multiply_states(self, sums: Sequence[Any], start: Int) -> list[Any]:
        """Adds the products of both states, over 64 values."""
        m, sums = self.machine, list(sums)
        row, unit = self.state_group()
        at = start + row * 128 + permuted(unit & 7, row) + (unit >> 3) * PANEL_BYTES
        for offset in range(0, VALUE_TILE * 128, 16 * 128):
            pairs = zip(
                m.load_shared(at + offset, 4),
                m.load_shared(at + (offset + self.plan.state_bytes), 4),
                strict=True,
            )
            for i, words in enumerate(pairs):
                both = (m.unpack(word) for word in words)
                sums[2 * i : 2 * i + 2] = each(m.fma, *both, sums[2 * i : 2 * i + 2])
        return sums

    def store_state_sums(self, sums: Sequence[Any]) -> None:
        """The sums of `multiply_states`."""
        m, (group, unit) = self.machine, self.state_group()
        at = group * (4 * self.sizes.key) + unit * 32 + self.plan.state_sums_at
        for i in (0, 4):
            m.store_shared(at + 4 * i, [m.bits(x) for x in sums[i : i + 4]])

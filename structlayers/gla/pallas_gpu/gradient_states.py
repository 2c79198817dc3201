"""What gradients of a chunk have from states: values, cotangents and states come, products start.

Values and cotangents stand in rows of 128 bytes, permuted as states are. The products are those of
warpgroups: each of them has 64 channels, and each thread 32 results of queries and of keys. The
products of keys are under way until those of queries of the next 64 values are.
"""

import functools
from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Chunk, Pair, each
from structlayers.gla.pallas_gpu.gradient_layout import PANEL_BYTES, Plan
from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, ROWS, VALUE_TILE, permuted

_UNITS = VALUE_TILE // 8


class States(Chunk):
    """What the block's program does with values and states."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        super().__init__(plan.sizes, machine, inputs[:3])
        self.locate(machine.cluster())
        self.plan = plan
        self.values, self.cotangents, self.states, self.pulled = inputs[3:]
        # of a warp: its 16 rows, and its 64 channels
        self.rows, self.slab = self.warp & 3, self.warp >> 2
        self.slabs = plan.sizes.key // 64
        self.asked: dict[str, list[Any]] = {}

    def ask(self) -> None:
        """Asks for all that is loaded first, before anything is waited for."""
        m = self.machine
        gates, queries = self.load_gate_words(), super().load_queries()
        self.asked = {"gates": gates, "queries": queries, "keys": super().load_keys()}
        self.fetch_states(m.constant(0))
        for stage in range(self.plan.stages):
            self.fetch_rows(m.constant(stage))
        # last, as compilers move no arithmetic of what was loaded before their branches
        for stage in range(1, self.plan.stages):
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
        stage = step.modulo(plan.stages)
        tiles, size = sizes.value // VALUE_TILE, plan.state_bytes
        barrier, start = stage * 8 + plan.barriers_at, stage * (2 * size) + plan.stages_at
        with m.when((step < tiles) & m.thread().equals(0)):
            m.barrier_expect(barrier, 2 * size)
            row, zero = self.block * tiles + step, m.constant(0)
            for i, states in enumerate((self.states, self.pulled)):
                m.copy_in(start + i * size, states, row, size, zero, size, barrier)
        m.reconverge()

    def fetch_rows(self, step: Int) -> None:
        """Starts the copies of 64 values and their cotangents, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        unit, first = m.thread() & (_UNITS - 1), m.thread() >> (_UNITS.bit_length() - 1)
        start = step.modulo(plan.stages) * (2 * PANEL_BYTES) + plan.rows_at
        at = first * 128 + permuted(unit, first) + start
        with m.when(step < sizes.value // VALUE_TILE):
            for row in range(0, CHUNK, plan.threads // _UNITS):
                place, offset = self.place(first + row)[0], step * 128 + unit * 16
                for i, (array, source) in enumerate(self.rows_of(place)):
                    target = at + (128 * row + i * PANEL_BYTES)
                    m.load_ahead(target, array, source, 2 * sizes.value, offset)
        m.reconverge()
        m.commit_loads()

    def rows_of(self, place: Int) -> list[tuple[Any, Int]]:
        """Arrays of values and cotangents, and their rows of a token."""
        parts = self.sizes.parts
        heads = (
            (self.values, self.sizes.groups, self.group),
            (self.cotangents, self.sizes.heads, self.head),
        )
        return [(x, place * (count // parts) + head.divide(parts)) for x, count, head in heads]

    def prefetch_later(self) -> None:
        """Brings what a later block loads into the L2, by one thread."""
        m, sizes = self.machine, self.sizes
        index = m.cluster() + MULTIPROCESSORS
        with m.when((index < sizes.sequences * sizes.chunks) & m.thread().equals(0)):
            here = self.chunk, self.block, self.head, self.first, self.group
            self.locate(index)
            size = sizes.value * sizes.key * 2
            for states in (self.states, self.pulled):
                m.prefetch_bulk(states, self.block, size, size)
            self.prefetch()
            self.chunk, self.block, self.head, self.first, self.group = here
        m.reconverge()

    def prefetch(self) -> None:
        """Brings this head's share of a full chunk of all heads into the L2."""
        m, sizes = self.machine, self.sizes
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
            m.wait_loads(plan.stages - 2)  # the first 64 values started no copies
            return carried

        def fetch(index: Int, _: Int, carried: Sequence[Any]) -> Sequence[Any]:
            self.fetch_states(index + (plan.stages - 1))
            self.fetch_rows(index + (plan.stages - 1))
            return carried

        def add(index: Int, carried: Sequence[Any]) -> list[Any]:
            queries, keys, sums = carried[:others], carried[others : others + 32], carried[-8:]
            stage = index.modulo(plan.stages)
            m.barrier_wait(stage * 8 + plan.barriers_at, index.divide(plan.stages) & 1)
            m.wait_loads(plan.stages - 1)
            later = self.flag(index >= 1)
            m.loop(0, later, 1, wait)
            m.release_to_copies()
            m.synchronize()
            states = stage * (2 * plan.state_bytes) + plan.stages_at
            rows = stage * (2 * PANEL_BYTES) + plan.rows_at
            queries = self.start_queries(queries, states, rows)
            keys = m.warpgroup_wait(1, keys)
            m.synchronize()
            m.loop(0, later, 1, functools.partial(fetch, index))
            keys = self.start_keys(keys, states, rows)
            sums = self.multiply_states(sums, states)
            return [*m.warpgroup_wait(1, queries), *keys, *sums]

        carried = m.loop(0, tiles, 1, add, [m.zero()] * (others + 40))
        carried = [*m.warpgroup_wait(0, carried[: others + 32]), *carried[others + 32 :]]
        m.synchronize()
        self.store_scores(carried[32:others])
        self.store_state_sums(carried[-8:])
        return carried[:32], carried[others : others + 32]

    def start_queries(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts the products of 64 values with states before, and of scores."""
        m, blocks, count = self.machine, 4 // self.slabs, len(found)
        left = self.left_rows(rows + PANEL_BYTES)
        tokens, start = rows + self.slab * (blocks * ROWS * 128), states + self.slab * PANEL_BYTES
        made = m.warpgroup_begin([*found, *left])
        queries, scores, left = made[:32], made[32:count], made[count:]
        for i in range(4):
            words = left[4 * i : 4 * i + 4]
            scores = m.warpgroup_product(scores, words, tokens + 32 * i, transpose=False, panel=0)
            at = start + i * ROWS * 128
            queries = m.warpgroup_product(queries, words, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return [*queries, *scores]

    def start_keys(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts those of 64 values with gradients of states after."""
        m = self.machine
        made = m.warpgroup_begin([*found, *self.left_rows(rows)])
        keys, left = made[:32], made[32:]
        start = states + self.slab * PANEL_BYTES + self.plan.state_bytes
        for i in range(4):
            at, words = start + i * ROWS * 128, left[4 * i : 4 * i + 4]
            keys = m.warpgroup_product(keys, words, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return keys

    def left_rows(self, start: Int) -> list[Any]:
        """Left operands: this warp's rows by 64 values."""
        places = self.operands(self.rows * (ROWS * 128) + start, rows_first=True)
        m = self.machine
        return [word for place in places for word in m.load_matrices(place, transpose=False)]

    def store_scores(self, scores: Sequence[Any]) -> None:
        """Gradients of scores in this warp's rows and columns of its slab, as a tile."""
        blocks = 4 // self.slabs
        for block in range(blocks):
            column = self.slab * blocks + block
            below = (self.rows - column) * ROWS
            found = self.where(
                lambda row, col, below=below: col < below + row + 1,
                scores[8 * block : 8 * block + 8],
            )
            self.store_block(self.plan.scores_at, self.rows, column, found)

    def flag(self, condition: Int) -> Int:
        """1 or 0."""
        m = self.machine
        return Int(m, m.select(condition, m.constant(1).value, m.constant(0).value))

    def state_group(self) -> tuple[Int, Int]:
        """Of the products of both states this thread's values modulo 16, and 8 channels."""
        units, thread = self.sizes.key // 8, self.machine.thread()
        return thread >> (units.bit_length() - 1), thread & (units - 1)

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

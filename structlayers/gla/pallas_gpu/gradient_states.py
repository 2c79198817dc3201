"""What gradients of a chunk have from states: values, cotangents and states come, products start.

Values and cotangents stand in rows of 128 bytes, permuted as states are. The products are those of
warpgroups, transposed: states, channels by values, are their left operands, and so in registers,
whether they are stored or made here. Each warpgroup has 64 channels of all rows, and each thread 32
results of queries and of keys. Those with the state that is stored are under way while the one made
for the others is packed.
"""

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Pair
from structlayers.gla.pallas_gpu.gradient_layout import PANEL_BYTES, STAGES, Plan
from structlayers.gla.pallas_gpu.gradient_pairs import Pairs
from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, ROWS, VALUE_TILE


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
        for stage in range(self.plan.row_stages - 1):
            if stage == 0:
                self.fetch_states(m.constant(0))
            self.fetch_rows(m.constant(stage))
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
            zero = m.constant(0)
            for i, (states, row) in enumerate(self.both_states()):
                row = row * tiles + step
                m.copy_in(start + i * size, states, row, size, zero, size, barrier)
        m.reconverge()

    def both_states(self) -> tuple[tuple[Any, Int], tuple[Any, Int]]:
        """Arrays of states and of their gradients, and the rows of the chunk in them."""
        return (self.states, self.state_row), (self.pulled, self.pulled_row)

    def fetch_rows(self, step: Int) -> None:
        """Starts a group of copies: 64 values, their cotangents, and the neighbour's, if any."""
        self.fetch_neighbour(step)
        start = self.stage_of(step) * (2 * PANEL_BYTES) + self.plan.rows_at
        self.copy_rows(step, start, self.chunk, slice(None))
        self.machine.commit_loads()

    def prefetch_later(self) -> None:
        """Brings what a later block loads into the L2, by one thread."""
        m, later = self.machine, copy.copy(self)
        index = m.cluster() + MULTIPROCESSORS
        with m.when((index < self.plan.blocks) & m.thread().equals(0)):
            later.locate(index)
            later.prefetch()
        m.reconverge()

    def prefetch(self) -> None:
        """Brings states, and this head's share of a full chunk of all heads, into the L2."""
        m, sizes = self.machine, self.sizes
        size = sizes.value * sizes.key * 2
        for i, (states, row) in enumerate(self.both_states()):
            # the other block of a pair brings the other one
            wanted = self.stored.equals(i) | self.alone if sizes.paired else None
            with contextlib.nullcontext() if wanted is None else m.when(wanted):
                m.prefetch_bulk(states, row, size, size)
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
        """Gradients of weighted queries and keys by the states; those of scores, as a tile.

        Returns:
            Those of queries and keys: this warp's 16 channels by 64 rows.
        """
        m, plan, tiles = self.machine, self.plan, self.sizes.value // VALUE_TILE
        others = 32 + 8 * (4 // self.slabs)
        decays = self.load_decays()

        def add(index: Int, carried: Sequence[Any]) -> list[Any]:
            found, sums = carried[:-4], carried[-4:]
            if self.image is None:  # the tile before has both states as they are loaded
                found = m.warpgroup_wait(0, found)
            stage = index.modulo(STAGES)
            m.barrier_wait(stage * 8 + plan.barriers_at, index.divide(STAGES) & 1)
            states = self.slab * PANEL_BYTES + (stage * (2 * plan.state_bytes) + plan.stages_at)
            left, other = (
                self.columns(states + of * plan.state_bytes, VALUE_TILE // ROWS)
                for of in (self.stored, self.stored ^ 1)
            )
            made = [x for word in other for x in m.unpack(word)]
            if self.image is not None:
                made = [m.multiply(x, decays[i >> 1 & 1]) for i, x in enumerate(made)]
            m.wait_loads(plan.row_stages - 2)
            m.release_to_copies()
            if self.image is not None:
                found = m.warpgroup_wait(0, found)
            m.synchronize()
            if self.image is not None:
                made = self.start_missing(made, index)
            rows = self.stage_of(index) * (2 * PANEL_BYTES) + plan.rows_at
            stored, left = self.multiply_stored(found[:others], left, rows)
            # all have these states in registers, and are done with the rows before
            self.fetch_states(index + STAGES)
            self.fetch_rows(index + (plan.row_stages - 1))
            if self.image is not None:
                made = m.warpgroup_wait(1, made)
                other = [m.pack(*made[i : i + 2]) for i in range(0, 32, 2)]
            missing = self.multiply_missing(found[others:], other, rows)
            sums = self.multiply_states(sums, left, made)
            return [*m.warpgroup_wait(1, stored), *missing, *sums]

        carried = m.loop(0, tiles, 1, add, [m.zero()] * (others + 36))
        carried = [*m.warpgroup_wait(0, carried[:-4]), *carried[-4:]]
        m.synchronize()
        self.store_scores(carried[32:others])
        pairs = (carried[-4:-2], carried[-2:])
        self.store_over_lanes((plan.state_sums_at, plan.state_sums_at + 4 * self.sizes.key), pairs)
        stored, missing = carried[:32], carried[others : others + 32]
        if not self.sizes.paired:
            return list(stored), list(missing)
        first = self.stored.equals(0)
        both = [
            (m.select(first, x, y), m.select(first, y, x))
            for x, y in zip(stored, missing, strict=True)
        ]
        queries, keys = zip(*both, strict=True)
        return list(queries), list(keys)

    def multiply_stored(
        self, found: Sequence[Any], left: Sequence[Any], rows: Int
    ) -> tuple[list[Any], list[Any]]:
        """Starts the products of 64 values with the stored state, and of scores.

        States before with cotangents, or gradients of states after with values.

        Returns:
            Results, and the state, which products read until they are done.
        """
        m, blocks, count = self.machine, 4 // self.slabs, len(found)
        tokens = self.slab * (blocks * ROWS * 128) + rows
        right = (self.stored ^ 1) * PANEL_BYTES + rows
        made = m.warpgroup_begin([*found, *left])
        results, scores, left = made[:32], made[32:count], made[count:]
        for i in range(4):
            words, at = left[4 * i : 4 * i + 4], 32 * i
            results = m.warpgroup_product(results, words, right + at, transpose=False, panel=0)
            above = rows + (PANEL_BYTES + at)
            scores = m.warpgroup_product(scores, above, tokens + at, transpose=False, panel=0)
        m.warpgroup_commit()
        return [*results, *scores], left

    def multiply_missing(self, found: Sequence[Any], left: Sequence[Any], rows: Int) -> list[Any]:
        """Starts those of the other state with 64 values, or cotangents."""
        m = self.machine
        made = m.warpgroup_begin([*found, *left])
        results, left = made[:32], made[32:]
        right = self.stored * PANEL_BYTES + rows
        for i in range(4):
            at, words = right + 32 * i, left[4 * i : 4 * i + 4]
            results = m.warpgroup_product(results, words, at, transpose=False, panel=0)
        m.warpgroup_commit()
        return results

    def store_scores(self, scores: Sequence[Any]) -> None:
        """Gradients of scores in this warp's rows and columns of its warpgroup, as a tile."""
        blocks = 4 // self.slabs
        for block in range(blocks):
            column = self.slab * blocks + block
            below = (self.rows - column) * ROWS
            found = scores[8 * block : 8 * block + 8]
            found = self.where(lambda row, col, below=below: col < below + row + 1, found)
            self.store_block(self.plan.scores_at, self.rows, column, found)

    def multiply_states(
        self, sums: Sequence[Any], words: Sequence[Any], made: Sequence[Any]
    ) -> list[Any]:
        """Adds the products of both states, over even and odd values of both channels."""
        m, sums = self.machine, list(sums)
        for i, word in enumerate(words):
            for half, value in enumerate(m.unpack(word)):
                at = 2 * half + (i & 1)
                sums[at] = m.fma(value, made[2 * i + half], sums[at])
        return sums

    def store_over_lanes(self, starts: Sequence[int], pairs: Sequence[Sequence[Any]]) -> None:
        """Sums over the four lanes of a channel, each a value of two rows of K float32.

        Args:
            starts: of both rows.
            pairs: for each row, a term of each of this thread's channels.
        """
        m, lane = self.machine, self.lane
        first = [self.halves(1, *pair) for pair in pairs]
        value = self.halves(2, *first)
        at = self.channel * 4 + (lane & 1) * 32
        at = at + (lane >> 1 & 1) * (starts[1] - starts[0]) + starts[0]
        m.store_shared(at, [m.bits(value)])

    def halves(self, mask: int, low: Any, high: Any) -> Any:
        """The sum of one of two values over two lanes, in that without the bit, else the other."""
        m, kept = self.machine, (self.lane & mask).equals(0)
        sent = m.shuffle_xor(m.select(kept, high, low), mask)
        return m.add(m.select(kept, low, high), sent)

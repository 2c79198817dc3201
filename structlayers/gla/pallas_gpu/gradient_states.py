"""What gradients of a chunk have from states: values, cotangents and states come, products start.

Values and cotangents stand in rows of 128 bytes, permuted as states are. The products are those of
warpgroups: each of them has 64 channels, and each thread 32 results of queries and of keys.
"""

from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Chunk, each
from structlayers.gla.pallas_gpu.gradient_layout import (
    PANEL_BYTES,
    ROW_STAGES,
    STATE_STAGES,
    STATE_SUMS,
    Plan,
)
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

    @override
    def load_more(self) -> None:
        for stage in range(ROW_STAGES):
            step = self.machine.constant(stage)
            if stage < STATE_STAGES:
                self.fetch_states(step)
            self.fetch_rows(step)

    def fetch_states(self, step: Int) -> None:
        """Starts the copies of 64 values of both states, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(STATE_STAGES)
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
        start = step.modulo(ROW_STAGES) * (2 * PANEL_BYTES) + plan.rows_at
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
        """Brings what a later block loads into the L2, while this one does not load."""
        m, sizes = self.machine, self.sizes
        index = m.cluster() + MULTIPROCESSORS
        with m.when(index < sizes.sequences * sizes.chunks):
            here = self.chunk, self.block, self.head, self.first, self.group
            self.locate(index)
            self.prefetch()
            with m.when(m.thread().equals(0)):
                size = sizes.value * sizes.key * 2
                for states in (self.states, self.pulled):
                    m.prefetch_bulk(states, self.block, size, size)
            self.chunk, self.block, self.head, self.first, self.group = here
        m.reconverge()

    def prefetch(self) -> None:
        """Brings queries, keys and gates of the chunk into the L2, a line of each by a thread."""
        m, key = self.machine, self.sizes.key
        shift = (key // 32).bit_length() - 1
        row, line = self.place(self.thread >> shift)[0], self.thread & (key // 32 - 1)
        m.prefetch(self.gate, row * self.sizes.groups + self.group, 4 * key, line * 128)
        thread = self.thread & (key - 1)
        row, line = self.place(thread >> (shift - 1))[0], thread & (key // 64 - 1)
        with m.when(self.thread < key):
            m.prefetch(self.q, row * self.sizes.heads + self.head, 2 * key, line * 128)
        with m.when(self.thread >= key):
            m.prefetch(self.k, row * self.sizes.groups + self.group, 2 * key, line * 128)
        m.reconverge()

    # products with states -------------------------------------------------------------------

    def read_values(self) -> tuple[list[Any], list[Any]]:
        """Gradients of weighted queries and keys by the states; those of scores, as a tile."""
        m, plan, tiles = self.machine, self.plan, self.sizes.value // VALUE_TILE
        count = 64 + 8 * (4 // self.slabs)

        def add(index: Int, carried: Sequence[Any]) -> list[Any]:
            stage = index.modulo(STATE_STAGES)
            m.barrier_wait(stage * 8 + plan.barriers_at, index.divide(STATE_STAGES) & 1)
            m.wait_loads(ROW_STAGES - 1)
            m.release_to_copies()
            m.synchronize()
            states = stage * (2 * plan.state_bytes) + plan.stages_at
            rows = index.modulo(ROW_STAGES) * (2 * PANEL_BYTES) + plan.rows_at
            found = self.start_products(carried[:count], states, rows)
            sums = self.multiply_states(carried[count:], states)
            found = m.warpgroup_wait(0, found)
            m.synchronize()
            self.fetch_states(index + STATE_STAGES)
            self.fetch_rows(index + ROW_STAGES)
            return [*found, *sums]

        carried = list(m.loop(0, tiles, 1, add, [m.zero()] * (count + 8)))
        self.store_scores(carried[64:count])
        self.store_state_sums(carried[-8:])
        return carried[:32], carried[32:64]

    def start_products(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts the products of 64 values: of queries, of keys, and of scores."""
        m, blocks = self.machine, 4 // self.slabs
        lefts = [word for i in range(2) for word in self.left_rows(rows + i * PANEL_BYTES)]
        made = m.warpgroup_begin([*found, *lefts])
        queries, keys, scores = made[:32], made[32:64], made[64 : len(found)]
        values, cotangents = made[len(found) :][:16], made[len(found) + 16 :]
        tokens = rows + self.slab * (blocks * ROWS * 128)
        states = states + self.slab * PANEL_BYTES
        for i in range(4):
            at, left = states + i * ROWS * 128, cotangents[4 * i : 4 * i + 4]
            scores = m.warpgroup_product(scores, left, tokens + 32 * i, transpose=False, panel=0)
            queries = m.warpgroup_product(queries, left, at, transpose=True, panel=0)
            at, left = at + self.plan.state_bytes, values[4 * i : 4 * i + 4]
            keys = m.warpgroup_product(keys, left, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return [*queries, *keys, *scores]

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
        at = (group + STATE_SUMS) * (4 * self.sizes.key) + unit * 32 + self.plan.sums_at
        for i in (0, 4):
            m.store_shared(at + 4 * i, [m.bits(x) for x in sums[i : i + 4]])

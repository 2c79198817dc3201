"""Gradients of a chunk whose products with states are those of warpgroups.

Values and cotangents stand in rows of 128 bytes, permuted as states are, in stages of their own.
"""

from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, IntLike
from structlayers.gla.pallas_gpu.gradient import Program
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, VALUE_TILE, permuted

_PANEL = CHUNK * 128
_UNITS = VALUE_TILE // 8


class Warpgroups(Program):
    """A warpgroup has 64 channels; queries and keys have 32 results each in a thread."""

    steps: IntLike = 0  # tiles of values that the block has had before this chunk

    @override
    def load_more(self) -> None:
        for stage in range(self.plan.row_stages):
            step = self.machine.constant(stage)
            if stage < self.plan.stages:
                self.fetch_states(step)
            self.fetch_rows(step)

    def fetch_states(self, step: Int) -> None:
        """Starts the copies of 64 values of both states, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = (step + self.steps).modulo(plan.stages)
        tiles, size = sizes.value // VALUE_TILE, plan.state_bytes
        barrier, start = stage * 8 + plan.barriers_at, stage * plan.stage_bytes + plan.stages_at
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
        start = (step + self.steps).modulo(plan.row_stages) * (2 * _PANEL) + plan.rows_at
        at = first * 128 + permuted(unit, first) + start
        with m.when(step < sizes.value // VALUE_TILE):
            for row in range(0, CHUNK, plan.threads // _UNITS):
                place, offset = self.place(first + row)[0], step * 128 + unit * 16
                for i, (array, source) in enumerate(self.rows_of(place)):
                    target = at + (128 * row + i * _PANEL)
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

    @override
    def prefetch(self) -> None:
        super().prefetch()
        m, plan, sizes = self.machine, self.plan, self.sizes
        tiles = sizes.value // VALUE_TILE
        if not plan.later_rows:
            return
        for start in range(0, CHUNK * tiles, plan.threads):
            line = self.thread + start
            row = line.divide(tiles)
            with m.when(row < CHUNK):
                for array, source in self.rows_of(self.place(row.minimum(CHUNK - 1))[0]):
                    m.prefetch(array, source, 2 * sizes.value, (line - row * tiles) * 128)
            m.reconverge()

    @override
    def prefetch_states(self) -> None:
        m, plan = self.machine, self.plan
        size, tiles = plan.state_bytes, self.sizes.value // VALUE_TILE
        for states in (self.states, self.pulled):
            m.prefetch_bulk(states, self.block, tiles * size, plan.later * size)

    @override
    def read_values(self, tiles: int) -> tuple[list[Any], list[Any]]:
        m, plan = self.machine, self.plan
        count = 64 + 8 * (4 // self.slabs)

        def add(index: Int, carried: Sequence[Any]) -> list[Any]:
            step = index + self.steps
            stage = step.modulo(plan.stages)
            m.barrier_wait(stage * 8 + plan.barriers_at, step.divide(plan.stages) & 1)
            m.wait_loads(plan.row_stages - 1)
            m.release_to_copies()
            m.synchronize()
            states = stage * plan.stage_bytes + plan.stages_at
            rows = step.modulo(plan.row_stages) * (2 * _PANEL) + plan.rows_at
            found = self.start_products(carried[:count], states, rows)
            sums = self.multiply_states(carried[count:], states)
            found = m.warpgroup_wait(0, found)
            m.synchronize()
            self.fetch_states(index + plan.stages)
            self.fetch_rows(index + plan.row_stages)
            return [*found, *sums]

        carried = list(m.loop(0, tiles, 1, add, [m.zero()] * (count + 8)))
        self.store_scores(carried[64:count])
        self.store_state_sums(carried[-8:])
        return carried[:32], carried[32:64]

    def start_products(self, found: Sequence[Any], states: Int, rows: Int) -> list[Any]:
        """Starts the products of 64 values: of queries, of keys, and of scores."""
        m, blocks = self.machine, 4 // self.slabs
        lefts = [word for i in range(2) for word in self.left_rows(rows + i * _PANEL)]
        made = m.warpgroup_begin([*found, *lefts])
        queries, keys, scores = made[:32], made[32:64], made[64 : len(found)]
        values, cotangents = made[len(found) :][:16], made[len(found) + 16 :]
        tokens = rows + self.slab * (blocks * ROWS * 128)
        states = states + self.slab * _PANEL
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

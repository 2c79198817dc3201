"""States of every second chunk, and what the blocks of a pair of chunks make of them.

Of chunks 2 i and 2 i + 1 the states before the first and the gradients of states after the second
are stored, in one place of both arrays. Of each block's two states one is *stored*, and one is
*missing*: the first chunk lacks the gradient of the state after it, the second the state before it.
It is made as the recurrence makes it, tile by tile, from what was stored for the other chunk, the
*neighbour*, and stays in registers:

    S = decay * S_stored + V^T K    dS' = decay * dS'_stored + dO^T Q    of the neighbour

with weighted keys K or queries Q from its image. A last chunk without a neighbour has both stored.
"""

from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.chunk import Chunk
from structlayers.gla.pallas_gpu.gradient_layout import PANEL_BYTES, Plan
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, VALUE_TILE, lane_row, permuted

_UNITS = VALUE_TILE // 8


class Pairs(Chunk):
    """What the block's program does with the neighbour of its chunk."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        super().__init__(plan.sizes, machine, inputs[:3])
        self.plan = plan
        self.values, self.cotangents, self.states, self.pulled, *rest = inputs[3:]
        self.image = rest[0] if plan.sizes.paired else None
        # of a warp: its 16 channels, or rows of scores, of the 64 channels of its warpgroup
        self.rows, self.slab = self.warp & 3, self.warp >> 2
        # and of a thread, with that 8 channels on
        self.channel = self.slab * 64 + self.rows * ROWS + (self.lane >> 2)
        self.locate(machine.cluster())

    @override
    def locate(self, index: Int, *, from_end: bool = False) -> None:
        sizes, chunks = self.sizes, self.plan.chunks
        if not sizes.paired:
            index = index + chunks[0] * sizes.sequences if chunks[0] else index
            super().locate(index, from_end=from_end)
            return
        # both chunks of a pair at one time, so that what both read comes from the L2
        pair = index.divide(2 * sizes.sequences)
        rest, two = index - pair * (2 * sizes.sequences), self.machine.constant(1)
        if self.odd:
            two = self.flag(pair < len(chunks) // 2)
        sequence, chunk = rest >> two, pair * 2 + (rest & two)
        self.go_to(sequence, chunk + chunks[0] if chunks[0] else chunk)

    @property
    def odd(self) -> bool:
        """Whether there is a chunk without a neighbour."""
        return len(self.plan.chunks) % 2 == 1

    @override
    def go_to(self, sequence: Int, chunk: Int) -> None:
        super().go_to(sequence, chunk)
        sizes = self.sizes
        first, kept = self.plan.chunks[0], int(sizes.paired)
        self.state_row = sequence * sizes.kept + (chunk >> kept)
        self.pulled_row = self.state_row
        if self.plan.pulled != sizes.kept:
            self.pulled_row = sequence * self.plan.pulled + (chunk - first >> kept)
        # which of both states is stored, and whether the other one has to be made
        self.stored = chunk & 1 if sizes.paired else self.machine.constant(0)
        self.neighbour = (chunk ^ 1).minimum(sizes.chunks - 1)
        self.alone = self.neighbour.equals(chunk)

    def flag(self, condition: Int) -> Int:
        """1 or 0."""
        m = self.machine
        return Int(m, m.select(condition, m.constant(1).value, m.constant(0).value))

    # copies ----------------------------------------------------------------------------------

    def fetch_image(self) -> None:
        """Starts the copies of the neighbour's weighted keys or queries, and of its decay."""
        if self.image is None:
            return
        plan, m, sizes, whole = self.plan, self.machine, self.sizes, self.sizes.whole()
        part, decay_bytes = self.head.modulo(sizes.parts), 4 * sizes.key
        row = self.sequence.divide(sizes.parts) * sizes.chunks + self.neighbour
        tile = self.stored * whole.tile_bytes + part * sizes.tile_bytes
        pieces = (
            (plan.image_at, tile, sizes.tile_bytes),
            (plan.decay_at, part * decay_bytes + whole.decay_at, decay_bytes),
        )
        # nothing is copied where there is no neighbour
        size = sum(size for *_, size in pieces)
        copied = self.flag(self.alone) ^ 1 if self.odd else m.constant(1)
        with m.when(m.thread().equals(0)):
            m.barrier_expect(plan.image_barrier, copied * size)
        with m.when(m.thread().equals(0) & copied.equals(1)):
            for target, offset, size in pieces:
                at, pitch = m.constant(target), whole.image_bytes
                m.copy_in(at, self.image, row, pitch, offset, size, plan.image_barrier)
        m.reconverge()
        if self.odd:
            self.fill_image()

    def fill_image(self) -> None:
        """Zeros and decays of 1, where there is no neighbour."""
        m, plan = self.machine, self.plan
        with m.when(self.alone):
            for at in range(0, self.sizes.tile_bytes, plan.threads * 16):
                m.store_shared(m.thread() * 16 + (plan.image_at + at), [m.word(0)] * 4)
            with m.when(m.thread() < self.sizes.key):
                m.store_shared(m.thread() * 4 + plan.decay_at, [m.bits(self.one)])
        m.reconverge()

    def fetch_neighbour(self, step: Int) -> None:
        """Starts the copies of 64 of its values, or of their cotangents, if there are any."""
        if self.image is None:
            return
        start = self.neighbour_at(step)
        for stored in range(2):  # cotangents for the gradient of a state
            array = 1 - stored
            with self.machine.when(self.stored.equals(stored)):
                self.copy_rows(step, start, self.neighbour, slice(array, array + 1))
        self.machine.reconverge()

    def copy_rows(self, step: Int, start: Int, chunk: Int, arrays: slice) -> None:
        """Starts the copies of 64 values, their cotangents, or both, if there are any."""
        m, sizes = self.machine, self.sizes
        unit, first = m.thread() & (_UNITS - 1), m.thread() >> (_UNITS.bit_length() - 1)
        at = first * 128 + permuted(unit, first) + start
        with m.when(step < sizes.value // VALUE_TILE):
            for row in range(0, CHUNK, self.plan.threads // _UNITS):
                place, offset = self.place(first + row, chunk)[0], step * 128 + unit * 16
                for i, (array, source) in enumerate(self.rows_of(place)[arrays]):
                    target = at + (128 * row + i * PANEL_BYTES)
                    m.load_ahead(target, array, source, 2 * sizes.value, offset)
        m.reconverge()

    def rows_of(self, place: Int) -> list[tuple[Any, Int]]:
        """Arrays of values and cotangents, and their rows of a token."""
        parts = self.sizes.parts
        heads = (
            (self.values, self.sizes.groups, self.group),
            (self.cotangents, self.sizes.heads, self.head),
        )
        return [(x, place * (count // parts) + head.divide(parts)) for x, count, head in heads]

    # the state that is missing ---------------------------------------------------------------

    def load_decays(self) -> list[Any]:
        """The neighbour's decays of this thread's two channels, when its image has arrived."""
        if self.image is None:
            return []
        self.machine.barrier_wait(self.plan.image_barrier, 0)
        if self.odd:
            self.machine.synchronize()
        return self.factors(self.plan.decay_at)

    def start_missing(self, decayed: Sequence[Any], index: Int) -> list[Any]:
        """Starts the products of 64 values of the missing state.

        Args:
            decayed: of the neighbour's state, this warp's 16 channels by 64 values.
            index: of the tile.
        """
        m = self.machine
        found = m.warpgroup_begin(decayed)
        left, right = self.slab * PANEL_BYTES + self.plan.image_at, self.neighbour_at(index)
        for i in range(0, CHUNK * 128, ROWS * 128):
            # not in registers: ptxas gave those away that no tile wrote to
            found = m.warpgroup_product(
                found, left + i, right + i, transpose=True, panel=0, left_transpose=True
            )
        m.warpgroup_commit()
        return found

    def stage_of(self, step: Int) -> Int:
        """Stage of a tile of rows, and of the neighbour's."""
        return step.modulo(self.plan.row_stages)

    def neighbour_at(self, step: Int) -> Int:
        """Where a tile of the neighbour's rows is."""
        stage, (first, second, last) = self.stage_of(step), self.plan.neighbours_at
        apart = self.flag(stage.equals(2)) * (last - 2 * second + first)
        return stage * (second - first) + first + apart

    def columns(self, start: Int, parts: int = 1) -> list[Any]:
        """Left operands: this warp's 16 channels by so many times 16 rows of a panel."""
        row, unit = lane_row(self.lane, rows_first=False)
        at = row * 128 + permuted(self.rows * 2 + unit, row) + start
        places = [at + part * (ROWS * 128) for part in range(parts)]
        return [word for at in places for word in self.machine.load_matrices(at, transpose=True)]

    def factors(self, start: IntLike) -> list[Any]:
        """Of a row of K float32 in shared memory those of this thread's two channels."""
        m, at = self.machine, self.channel * 4 + start
        return [m.float(m.load_shared(at + 32 * i, 1)[0]) for i in range(2)]

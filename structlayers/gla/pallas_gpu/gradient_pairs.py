"""States of every second chunk, and what the blocks of a pair of chunks make of them.

Of chunks 2 i and 2 i + 1 the states before the first and the gradients of states after the second
are stored, in one place of both arrays. Of each block's two states one is *stored*, and one is
*missing*: the first chunk lacks the gradient of the state after it, the second the state before it.
It is made as the recurrence makes it, tile by tile, in the place of what was stored for the other
chunk, the *neighbour*:

    S = decay * S_stored + V^T K    dS' = decay * dS'_stored + dO^T Q    of the neighbour

with weighted keys K or queries Q from its image. A last chunk without a neighbour has both stored.
"""

from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Chunk
from structlayers.gla.pallas_gpu.gradient_layout import PANEL_BYTES, STAGES, Plan
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, VALUE_TILE, lane_row, permuted

_UNITS = VALUE_TILE // 8


class Pairs(Chunk):
    """What the block's program does with the neighbour of its chunk."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        super().__init__(plan.sizes, machine, inputs[:3])
        self.plan = plan
        self.values, self.cotangents, self.states, self.pulled, *rest = inputs[3:]
        self.image = rest[0] if plan.sizes.paired else None
        # of a warp: its 16 rows, and its 64 channels
        self.rows, self.slab = self.warp & 3, self.warp >> 2
        self.locate(machine.cluster())

    @override
    def locate(self, index: Int, *, from_end: bool = False) -> None:
        if not self.sizes.paired:
            super().locate(index, from_end=from_end)
            return
        # both chunks of a pair at one time, so that what both read comes from the L2
        sizes = self.sizes
        pair = index.divide(2 * sizes.sequences)
        rest, two = index - pair * (2 * sizes.sequences), self.machine.constant(1)
        if sizes.chunks % 2:
            two = self.flag(pair < sizes.chunks // 2)
        self.go_to(rest >> two, pair * 2 + (rest & two))

    @override
    def go_to(self, sequence: Int, chunk: Int) -> None:
        super().go_to(sequence, chunk)
        sizes = self.sizes
        self.state_row = sequence * sizes.kept + (chunk >> int(sizes.paired))
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
        with m.when(m.thread().equals(0)):
            m.barrier_expect(plan.image_barrier, sizes.tile_bytes + decay_bytes)
            for target, offset, size in pieces:
                at, pitch = m.constant(target), whole.image_bytes
                m.copy_in(at, self.image, row, pitch, offset, size, plan.image_barrier)
        m.reconverge()

    def await_image(self) -> None:
        """Waits for what `fetch_image` asked for."""
        if self.image is not None:
            self.machine.barrier_wait(self.plan.image_barrier, 0)

    def fetch_neighbour(self, step: Int) -> None:
        """Starts the copies of 64 of its values, or of their cotangents, if there are any."""
        if self.image is None:
            return
        start = step.modulo(STAGES) * PANEL_BYTES + self.plan.neighbours_at
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

    def start_missing(self, index: Int, states: Int) -> list[Any]:
        """Starts the products of 64 values of the missing state.

        Args:
            index: of the tile.
            states: where both states of the tile are.

        Returns:
            Results of this warp, 16 values by 64 channels; none if both states are stored.
        """
        if self.image is None:
            return []
        m = self.machine
        words = [
            word
            for place in self.missing_places(states)
            for word in m.load_matrices(place, transpose=False)
        ]
        found = self.scaled([x for word in words for x in m.unpack(word)], self.decays())
        made = m.warpgroup_begin([*found, *self.left_columns(index)])
        found, left = made[:32], made[32:]
        image = self.slab * PANEL_BYTES + self.plan.image_at
        for i in range(4):
            at, words = image + i * (ROWS * 128), left[4 * i : 4 * i + 4]
            found = m.warpgroup_product(found, words, at, transpose=True, panel=0)
        m.warpgroup_commit()
        return list(found)

    def finish_missing(self, found: Sequence[Any], states: Int) -> None:
        """Writes them, for this warpgroup, in its slab; one group of products came after them."""
        if self.image is None:
            return
        m = self.machine
        found = m.warpgroup_wait(1, found)
        for i, place in enumerate(self.missing_places(states)):
            words = [m.pack(*found[j : j + 2]) for j in range(8 * i, 8 * i + 8, 2)]
            m.store_matrices(place, words, transpose=False)
        m.release_to_copies()
        m.synchronize_team(self.slab, 128)

    def missing_places(self, states: Int) -> list[Int]:
        """Where this warp has its part of a tile of the missing state."""
        start = (self.stored ^ 1) * self.plan.state_bytes + states + self.slab * PANEL_BYTES
        return self.operands(self.rows * (ROWS * 128) + start, rows_first=True)

    def decays(self) -> list[Any]:
        """The neighbour's decay in the channels of this thread's results; 1 if there is none."""
        found = self.factors(self.plan.decay_at)
        if self.sizes.chunks % 2:
            found = [self.machine.select(self.alone, self.one, x) for x in found]
        return found

    def left_columns(self, index: Int) -> list[Any]:
        """Left operands: 16 values of this warp by the neighbour's tokens; 0 if there is none."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=False)
        start = index.modulo(STAGES) * PANEL_BYTES + self.plan.neighbours_at
        at = row * 128 + permuted(self.rows * 2 + unit, row) + start
        words = []
        for part in range(CHUNK // ROWS):
            words += m.load_matrices(at + part * (ROWS * 128), transpose=True)
        if self.sizes.chunks % 2:
            words = [m.select(self.alone, m.word(0), x) for x in words]
        return words

    def factors(self, start: Any) -> list[Any]:
        """Of a row of K float32 in shared memory those in the channels of results, by two."""
        m, found = self.machine, []
        at = self.slab * 256 + (self.lane & 3) * 8 + start
        for tile in range(8):
            found += [m.float(word) for word in m.load_shared(at + 32 * tile, 2)]
        return found

    def scaled(self, found: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        """Results of a product, 16 rows by 64 channels, times those of `factors`."""
        multiply = self.machine.multiply
        return [multiply(x, factors[i // 4 * 2 + (i & 1)]) for i, x in enumerate(found)]

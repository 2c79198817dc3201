"""What the bfloat16 programs share: tiles of rows in shared memory, and factors that act on them.

In shared memory a tile stands column by column, 16 bytes for the 8 rows of a plane, so that one
matrix load gathers any 32 columns whatever the stride between them: a factor multiplies the columns
of each of its blocks in place, and no factor needs a transposition.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.butterfly.pallas_gpu.tensor_layout import BARRIER_BYTES, Columns, Factor, Tiling


@dataclasses.dataclass(frozen=True)
class Input:
    """Rows that come in tile by tile.

    Attributes:
        array: in device memory.
        columns: that the block reads.
        slots_at: where its slots start in shared memory.
        barriers_at: the same of a barrier for each slot.
        zeros: whether rows past the end of the batch read as zeros, else as the last row.
    """

    array: Any
    columns: Columns
    slots_at: int = BARRIER_BYTES
    barriers_at: int = 0
    zeros: bool = False


@dataclasses.dataclass(frozen=True)
class HeldFactor:
    """A factor with its weights in registers.

    Attributes:
        factor: the factor.
        addresses: for each group of 32 columns where this lane's lies in a plane.
        weights: for each group the words of its tiles.
    """

    factor: Factor
    addresses: list[Int]
    weights: list[list[Any]]


@dataclasses.dataclass(frozen=True)
class Step:
    """What one interval does to one tile, for each plane and group of 32 columns of a warp."""

    load: Callable[[int, int], list[Any]]
    finish: Callable[[int, int, list[Any]], None]


class Tiles[P: Tiling]:
    """The tiles of one block: those numbered ``first``, ``first + stride`` and so on."""

    def __init__(self, plan: P, machine: Machine, first: Int, rank: Int, stride: int):
        self.plan, self.machine = plan, machine
        self.lane, self.warp = machine.lane(), machine.warp()
        self.first, self.rank, self.stride = first, rank, stride

    def tile_count(self) -> Int:
        """How many tiles the block has."""
        return (self.first * -1 + (self.plan.tiles - 1 + self.stride)).divide(self.stride)

    def row(self, step: Int, place: IntLike) -> Int:
        """Row of the batch at a place of this block's tile number ``step``."""
        return (self.first + step * self.stride) * self.plan.tile_rows + place

    def clear(self, start: int, size: int) -> None:
        """Zeros in column buffers, which steps read before the first tile gets there."""
        plan, m = self.plan, self.machine
        zero = m.word(0)
        for at in range(start, start + size, 16 * plan.threads):
            m.store_shared(m.thread() * 16 + at, [zero] * 4)

    # rows coming in --------------------------------------------------------------------------

    def fetch(self, source: Input, step: Int) -> None:
        """Starts the copy of a tile's rows into its slot, if there is such a tile."""
        plan, m = self.plan, self.machine
        slot, thread = step.modulo(plan.slots), m.thread()
        segments = source.columns.segments
        size, shift = 2 * plan.columns // segments, segments.bit_length() - 1
        barrier = slot * 8 + source.barriers_at
        there = (self.first + step * self.stride) < plan.tiles
        with m.when(thread < plan.tile_rows * segments), m.when(there):
            expected: IntLike = 2 * plan.columns * plan.tile_rows
            if source.zeros:
                rows = (self.row(step, 0) * -1 + plan.rows).minimum(plan.tile_rows)
                expected = rows * (2 * plan.columns)
            with m.when(thread.equals(0)):
                m.barrier_expect(barrier, expected)
            place, segment = thread >> shift, thread & (segments - 1)
            target = slot * plan.input_bytes + place * plan.pitch + segment * size
            target = target + source.slots_at
            offset = source.columns.everywhere(segment * (size // 2)) * 2

            def copy(row: Int) -> None:
                m.copy_in(target, source.array, row, 2 * plan.size, offset, size, barrier)

            row = self.row(step, place)
            if not source.zeros:
                copy(row.minimum(plan.rows - 1))
            else:
                with m.when(row < plan.rows):
                    copy(row)
                with m.when(row >= plan.rows):
                    self.zero_row(target, size)
        m.reconverge()

    def zero_row(self, target: Int, size: int) -> None:
        """Zeros from an address on."""
        m = self.machine

        def store(offset: Int, carried: Sequence[Any]) -> Sequence[Any]:
            m.store_shared(target + offset, [m.word(0)] * 4)
            return carried

        m.loop(0, size, 16, store)

    def arrived(self, source: Input, step: Int) -> Int:
        """Waits for a tile; where its slot lies."""
        plan, m = self.plan, self.machine
        slot = step.modulo(plan.slots)
        m.barrier_wait(slot * 8 + source.barriers_at, step.divide(plan.slots) & 1)
        return slot * plan.input_bytes + source.slots_at

    def row_address(self, source: Int, plane: int, chunk: Int) -> Int:
        """Where this lane finds 8 of the 32 consecutive columns number ``chunk`` of a slot."""
        pitch = self.plan.pitch
        row = (self.lane & 7) * pitch + (self.lane >> 3) * 16
        return source + row + (chunk * 64 + 8 * plane * pitch)

    # columns ---------------------------------------------------------------------------------

    def buffer(self, step: Int, start: int, length: int) -> Int:
        """Where the columns of this block's tile number ``step``, from -32 on, lie in a ring."""
        turn = (step + 32 * length).modulo(length)
        return turn * self.plan.buffer_bytes + start

    def chunk(self, group: int) -> Int:
        """The 32 consecutive columns that a warp takes for a group where no factor says it."""
        return self.warp + group * self.plan.warps

    def transpose_in(self, source: Int, columns: Int, layout: Columns) -> Step:
        """Rows of an input tile to columns."""
        m = self.machine

        def load(plane: int, group: int) -> list[Any]:
            address = self.row_address(source, plane, self.chunk(group))
            return m.load_matrices(address, transpose=False)

        def finish(plane: int, group: int, words: list[Any]) -> None:
            column = self.chunk(group) * 32 + self.lane
            place = layout.place(column) * 16 + plane * self.plan.plane_bytes
            m.store_matrices(columns + place, words, transpose=True)

        return Step(load, finish)

    def addresses(self, factor: Factor, layout: Columns) -> list[Int]:
        """Where this lane's column of each group lies in a plane."""
        factor = layout.local(factor)
        shift = factor.width.bit_length() - 1
        found = []
        for group in range(self.plan.groups):
            product = (self.warp * self.plan.groups + group) * (32 // factor.width)
            column = factor.column(product + (self.lane >> shift), self.lane & (factor.width - 1))
            found.append(layout.place(column) * 16)
        return found

    # factors ---------------------------------------------------------------------------------

    def hold(self, factor: Factor, layout: Columns, array: Any, start: int) -> HeldFactor:
        """Loads this warp's weights of a factor, from a byte of the array on."""
        plan, m = self.plan, self.machine
        count, size = 32 // factor.width * factor.tiles, 4 * factor.lane_words
        groups = []
        for group in range(plan.groups):
            first = ((self.rank * plan.warps + self.warp) * plan.groups + group) * count
            offset = (first * 32 + self.lane) * size + start
            tiles = [
                m.load_global(array, offset + 32 * size * tile, factor.lane_words)
                for tile in range(count)
            ]
            if factor.lane_words == 2:
                tiles = [[low, m.word(0), m.word(0), high] for low, high in tiles]
            groups.append(tiles)
        return HeldFactor(factor, self.addresses(factor, layout), groups)

    def apply(self, held: HeldFactor, columns: Int, source: Int | None) -> Step:
        """Multiplies the columns of every group by their blocks, in place.

        With a source, the columns are consecutive and come from the rows of an input tile.
        """
        plan, m = self.plan, self.machine

        def place(plane: int, group: int) -> Int:
            return columns + held.addresses[group] + plane * plan.plane_bytes

        def load(plane: int, group: int) -> list[Any]:
            if source is None:
                return m.load_matrices(place(plane, group), transpose=True)
            chunk = self.warp * plan.groups + group
            return m.load_matrices(self.row_address(source, plane, chunk), transpose=False)

        def finish(plane: int, group: int, right: list[Any]) -> None:
            words = self.multiply(held.factor, held.weights[group], right)
            m.store_matrices(place(plane, group), words, transpose=False)

        return Step(load, finish)

    def multiply(self, factor: Factor, tiles: list[Any], right: list[Any]) -> list[Any]:
        """Products of 32 columns of 8 rows."""
        m, words = self.machine, []
        side = factor.width // 16
        for product in range(32 // factor.width):
            for i in range(side):
                acc = [m.zero()] * 4
                for j in range(side):
                    tile = tiles[product * factor.tiles + i * side + j]
                    at = 2 * (product * side + j)
                    acc = m.tensor_product(acc, tile, right[at : at + 2])
                words += [m.pack(acc[0], acc[1]), m.pack(acc[2], acc[3])]
        return words

    def write_rows(self, columns: Int, layout: Columns, store: Callable[..., None]) -> Step:
        """Columns to rows, 8 columns a thread: ``store(place, column, words)``."""
        plan, m = self.plan, self.machine
        pair, matrix = self.lane & 7, self.lane >> 3
        column = ((pair >> 1) << 3) + (matrix << 1) + (pair & 1)

        def load(plane: int, group: int) -> list[Any]:
            place = layout.place(self.chunk(group) * 32 + column) * 16
            return m.load_matrices(columns + place + plane * plan.plane_bytes, transpose=True)

        def finish(plane: int, group: int, words: list[Any]) -> None:
            start = self.chunk(group) * 32 + (self.lane & 3) * 8
            store((self.lane >> 2) + 8 * plane, start, words)

        return Step(load, finish)

    def store_rows(self, array: Any, step: Int, layout: Columns) -> Callable[..., None]:
        """Stores 8 columns of a row of tile number ``step`` in device memory, if it is there."""
        plan, m = self.plan, self.machine

        def store(place: Int, column: Int, words: list[Any]) -> None:
            row, offset = self.row(step, place), layout.everywhere(column) * 2
            with m.when(row < plan.rows):
                m.store_global(array, row, 2 * plan.size, offset, words)
            m.reconverge()

        return store

    def take(self, steps: Sequence[Step]) -> None:
        """All steps of an interval, the loads of all before the rest of each."""
        for plane in range(self.plan.planes):
            for group in range(self.plan.groups):
                loaded = [step.load(plane, group) for step in steps]
                for step, words in zip(steps, loaded, strict=True):
                    step.finish(plane, group, words)

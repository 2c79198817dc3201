"""The products within a chunk that its gradients are made of, and their way to threads.

What a row has from the states is weighted in the registers of tensor cores, and the products
within the chunk add to it. Results change from the registers of a warp, 16 rows by 64 channels, to
those of the threads, 16 rows by two channels, through buffers of 64 x K float32 in shared memory:
one each of queries, of keys, and of keys on the diagonal. Sums over rows that reach over other
parts are made of the same registers.
"""

import functools
import itertools
from collections.abc import Generator, Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, IntLike
from structlayers.gla.pallas_gpu.chunk import (
    DIAGONAL,
    FAR_KEYS,
    FAR_QUERIES,
    KEYS,
    QUERIES,
    Pair,
    each,
)
from structlayers.gla.pallas_gpu.gradient_layout import (
    AFTER,
    BEFORE,
    KEY_SUMS,
    OVER_SECOND,
    OVER_THIRD,
    QUERY_SUMS,
)
from structlayers.gla.pallas_gpu.gradient_states import States
from structlayers.gla.pallas_gpu.layout import ROWS, permuted

# Tiles that meet blocks of dP, by four times the block's row or column within the chunk, and part.
_KEYS_BY = (
    *(DIAGONAL, KEYS, FAR_KEYS, FAR_KEYS),
    *(0, DIAGONAL + 1, KEYS + 1, KEYS + 1),
    *(0, 0, DIAGONAL + 2, KEYS + 2),
    *(0, 0, 0, DIAGONAL + 3),
)
_FAR_OF_QUERIES = ((0, FAR_KEYS), (1, KEYS + 1))
_FAR_OF_KEYS = ((2, QUERIES + 2), (3, FAR_QUERIES))
DIAGONAL_BUFFER = 2  # where the gradients of gates follow
# 2**-12: on the diagonal a gate's gradient is a difference of float32 sums without this factor.
_LEAST_GATE = 0x39800000


class Products(States):
    """What the block's program does with tensor cores."""

    def merge(self, queries: Sequence[Any], keys: Sequence[Any]) -> None:
        """Gradients of this warp's weighted queries and keys to buffers, and sums over rows."""
        rows = self.rows
        queries = self.weighted_by(queries, rows + BEFORE)
        keys = self.weighted_by(keys, rows + AFTER)
        self.sum_rows(rows + QUERY_SUMS, queries, self.fragments(rows + QUERIES))
        self.sum_rows(rows + KEY_SUMS, keys, self.fragments(rows + KEYS))
        block = self.scores_of(rows, rows)
        queries = self.add_product(queries, block, self.tile_rows(rows + DIAGONAL))
        block = self.scores_of(rows, rows, transpose=True)
        found = self.add_product(self.zeros(), block, self.tile_rows(rows + QUERIES))
        self.to_buffer(DIAGONAL_BUFFER, found)
        self.to_buffer(0, self.add_earlier(queries))
        self.to_buffer(1, self.add_later(keys))

    def add_earlier(self, found: Sequence[Any]) -> Sequence[Any]:
        """Adds what queries have from keys of the rows before the 16."""
        m, rows = self.machine, self.rows
        start = self.flag(rows.equals(3)) * 2

        def near(index: Int, found: Sequence[Any]) -> list[Any]:
            part = index + start
            tile = self.listed(_KEYS_BY, part * 4 + rows)
            return self.add_product(found, self.scores_of(rows, part), self.tile_rows(tile))

        def far(index: Int, found: Sequence[Any]) -> list[Any]:
            del index
            over = self.zeros()
            for part, tile in _FAR_OF_QUERIES:
                block = self.scores_of(m.constant(3), m.constant(part))
                over = self.add_product(over, block, self.tile_rows(m.constant(tile)))
            return self.add_far(found, over, 2, OVER_THIRD, self.fragments(rows + QUERIES))

        found = m.loop(0, self.flag(rows.equals(3)), 1, far, found)
        return m.loop(0, rows - start, 1, near, found)

    def add_later(self, found: Sequence[Any]) -> Sequence[Any]:
        """Adds what keys have from queries of the rows after the 16."""
        m, rows = self.machine, self.rows

        def near(index: Int, found: Sequence[Any]) -> list[Any]:
            part = index + rows + 1
            tile = part + self.flag(part.equals(3) & (rows < 2)) * (FAR_QUERIES - QUERIES - 3)
            block = self.scores_of(part, rows, transpose=True)
            return self.add_product(found, block, self.tile_rows(tile + QUERIES))

        def far(index: Int, found: Sequence[Any]) -> list[Any]:
            del index
            over = self.zeros()
            for part, tile in _FAR_OF_KEYS:
                block = self.scores_of(m.constant(part), m.constant(0), transpose=True)
                over = self.add_product(over, block, self.tile_rows(m.constant(tile)))
            return self.add_far(found, over, 1, OVER_SECOND, self.fragments(rows + KEYS))

        first = self.flag(rows.equals(0))
        found = m.loop(0, first, 1, far, found)
        return m.loop(0, rows * -1 + 3 - first * 2, 1, near, found)

    def add_far(
        self, found: Sequence[Any], over: Sequence[Any], part: int, sums: int, weighted: Any
    ) -> list[Any]:
        """Adds results of far tiles, weighted with the decay of a part, 1 or 2."""
        # `count_kept` may have written over the decay of part 0, and over no more
        over = self.scaled(over, self.factors(self.scratch + part * 4 * self.sizes.key))
        self.sum_rows(self.machine.constant(sums), over, weighted)
        return [self.machine.add(x, y) for x, y in zip(found, over, strict=True)]

    def weighted_by(self, found: Sequence[Any], index: Int) -> list[Any]:
        """Results times a row of the sums."""
        return self.scaled(found, self.factors(index * (4 * self.sizes.key) + self.plan.sums_at))

    def fragments(self, tile: Int) -> list[Any]:
        """A tile's values of this warp's channels, where results of products have theirs."""
        m, found = self.machine, []
        for place in self.tile_rows(tile):
            upper, lower, upper_next, lower_next = m.load_matrices(place, transpose=False)
            found += [upper, lower, upper_next, lower_next]
        return found

    def sum_rows(self, index: Int, found: Sequence[Any], weighted: Sequence[Any]) -> None:
        """Sums over 16 rows of results times weighted values, to a row of the sums."""
        m, sums = self.machine, []
        for tile in range(8):
            upper, lower = (m.unpack(word) for word in weighted[2 * tile : 2 * tile + 2])
            values = found[4 * tile : 4 * tile + 4]
            first = self.times(upper, (values[0], values[1]))
            sums.append(each(m.fma, lower, values[2:], first))
        for bit in (2, 1, 0):  # a lane keeps the tiles that have its bit
            mask = 4 << bit
            kept = (self.lane & mask).equals(0)
            half = len(sums) // 2
            pairs = zip(sums[:half], sums[half:], strict=True)
            sums = [each(functools.partial(self.halves, kept, mask), *pair) for pair in pairs]
        at = index * (4 * self.sizes.key) + self.slab * 256 + self.lane * 8
        m.store_shared(at + self.plan.sums_at, [m.bits(x) for x in sums[0]])

    def halves(self, kept: Int, mask: int, low: Any, high: Any) -> Any:
        """The sum of one of two values over two lanes, where it is kept, else of the other."""
        m = self.machine
        sent = m.shuffle_xor(m.select(kept, high, low), mask)
        return m.add(m.select(kept, low, high), sent)

    def add_product(self, found: Sequence[Any], left: Any, places: Sequence[Int]) -> list[Any]:
        """Adds a 16 x 16 block times 16 rows of this warp's channels."""
        m, found = self.machine, list(found)
        for i, place in enumerate(places):
            right = m.load_matrices(place, transpose=True)
            for half in range(2):
                at = slice(8 * i + 4 * half, 8 * i + 4 * half + 4)
                found[at] = m.tensor_product(found[at], left, right[2 * half : 2 * half + 2])
        return found

    def tile_rows(self, tile: Int) -> list[Int]:
        """Right operands of this warp's channels from a tile of 16 rows."""
        start = self.slab * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at
        return self.operands(start, rows_first=True)

    def scores_of(self, row: IntLike, column: IntLike, *, transpose: bool = False) -> list[Any]:
        """A left operand from the gradients of scores."""
        return self.block_of(self.plan.scores_at, row, column, transpose=transpose)

    def block_of(
        self, start: int, row: IntLike, column: IntLike, *, transpose: bool = False
    ) -> list[Any]:
        """A left operand from a tile of 16 x 16 blocks."""
        at = self.block_place(start, row, column, rows_first=not transpose)
        return self.machine.load_matrices(at, transpose=transpose)

    def zeros(self) -> list[Any]:
        """16 rows of this warp's channels."""
        return [self.machine.zero()] * 32

    # rows that are halved --------------------------------------------------------------------

    @override
    def may_be_weak(self, weights: Sequence[Pair], decay: Pair) -> Int:
        least = functools.reduce(Int.minimum, map(self.integer, itertools.chain(*weights)))
        return super().may_be_weak(weights, decay) | (least < _LEAST_GATE)

    @override
    def weak_rows(self, weights: Sequence[Pair]) -> Generator[Int]:
        small = self.below(weights[0], _LEAST_GATE)
        for gate, weak in zip(weights, super().weak_rows(weights), strict=True):
            small = small | self.below(gate, _LEAST_GATE)
            yield weak | small

    def part_scores(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Takes rows that are halved out of the gradients of scores on the diagonal."""
        del index
        m = self.machine
        self.count_kept([each(m.exp2, gate) for gate in self.load_gates()])
        m.synchronize()
        kept = self.kept_rows(self.rows)
        with m.when(self.slab.equals(0)):
            words, none = self.scores_of(self.rows, self.rows), m.word(0)
            halved = [(self.lane >> 2) + 8 * (i & 1) >= kept for i in range(len(words))]
            pairs = list(zip(halved, words, strict=True))
            for start, row, chosen in (
                (self.plan.scores_at, self.rows, [m.select(is_, none, x) for is_, x in pairs]),
                (self.plan.halved_at, 0, [m.select(is_, x, none) for is_, x in pairs]),
            ):
                place = self.block_place(start, row, self.rows)
                m.store_matrices(place, chosen, transpose=False)
        m.reconverge()
        m.synchronize()
        return carried

    # from warps to threads -------------------------------------------------------------------

    def to_buffer(self, buffer: int, found: Sequence[Any]) -> None:
        """This warp's rows and channels of a buffer, in units of 8 permuted as those of tiles."""
        m, pitch, row = self.machine, 4 * self.sizes.key, self.lane >> 2
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        at = (self.rows * ROWS + row) * pitch + (self.lane & 3) * 8 + self.slab * 256 + start
        for i in range(8):
            place = at + (permuted(i, row) << 1)
            for lower in range(2):
                words = [m.bits(x) for x in found[4 * i + 2 * lower : 4 * i + 2 * lower + 2]]
                m.store_shared(place + 8 * lower * pitch, words)

    def row_places(self, start: IntLike) -> list[Int]:
        """Where this thread's channels are in 16 rows."""
        at = self.panel * 256 + start
        places = [(word << 1) + at for word in self.words]
        return [places[row & 7] + row * 4 * self.sizes.key for row in range(ROWS)]

    def buffer(self, buffer: int) -> list[Int]:
        """Where this thread's channels of its rows are in a buffer."""
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        return self.row_places(self.part * (ROWS * 4 * self.sizes.key) + start)

    def read(self, place: Int) -> Pair:
        """Two float32."""
        low, high = self.machine.load_shared(place, 2)
        return self.machine.float(low), self.machine.float(high)

    def write(self, place: Int, values: Pair) -> None:
        """The reverse."""
        self.machine.store_shared(place, [self.machine.bits(x) for x in values])

    def store_sums(self, index: IntLike, values: Pair) -> None:
        """This thread's channels of the sums over rows."""
        m = self.machine
        index = index if isinstance(index, Int) else m.constant(index)
        self.store_pair(index * (4 * self.sizes.key) + self.plan.sums_at, values)

    def load_sums(self, index: int) -> Pair:
        """The reverse."""
        return self.load_pair(index * 4 * self.sizes.key + self.plan.sums_at)

"""The products within a chunk that its gradients are made of, and their way to threads.

What a row has from the states is weighted in the registers of tensor cores, and the products
within the chunk add to it. Results change from the registers of a warp, 16 channels by 64 rows, to
those of the threads, two channels by 16 rows, through buffers of K x 64 float32 in shared memory:
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
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS

# Tiles that meet blocks of dP, by 16 rows: of keys of earlier rows, and of queries of later ones.
_NEAR_OF_QUERIES = ((), ((0, KEYS),), ((0, FAR_KEYS), (1, KEYS + 1)), ((2, KEYS + 2),))
_NEAR_OF_KEYS = (
    ((1, QUERIES + 1),),
    ((2, QUERIES + 2), (3, FAR_QUERIES)),
    ((3, QUERIES + 3),),
    (),
)
# And those of the last and the first rows that have the decay of another part between.
_FAR_OF_QUERIES = ((0, FAR_KEYS), (1, KEYS + 1))
_FAR_OF_KEYS = ((2, QUERIES + 2), (3, FAR_QUERIES))
_CHANNEL_BYTES = CHUNK * 4  # of a row of a buffer
DIAGONAL_BUFFER = 2  # where the gradients of gates follow
# 2**-12: on the diagonal a gate's gradient is a difference of float32 sums without this factor.
_LEAST_GATE = 0x39800000


class Products(States):
    """What the block's program does with tensor cores."""

    def merge(self, queries: Sequence[Any], keys: Sequence[Any]) -> None:
        """Gradients of this warp's weighted queries and keys to buffers, and sums over rows."""
        queries, keys = ([x[i : i + 8] for i in range(0, 32, 8)] for x in (queries, keys))
        weighted = {tile: self.tile(tile) for tile in (*range(QUERIES, 4), *range(KEYS, KEYS + 3))}
        for part in range(3):  # before the first rows, and after the last, is no decay
            queries[part + 1] = self.weighted_by(queries[part + 1], self.row_of(BEFORE + part + 1))
            keys[part] = self.weighted_by(keys[part], self.row_of(AFTER + part))
        sums = {
            QUERY_SUMS + i: self.over_rows(queries[i], weighted[QUERIES + i]) for i in (1, 2, 3)
        }
        sums |= {KEY_SUMS + i: self.over_rows(keys[i], weighted[KEYS + i]) for i in range(3)}
        far = self.add_blocks(self.zeros(), 3, _FAR_OF_QUERIES, transpose=False)
        # `count_kept` may have written over the decay of part 0, and over no more
        far = self.weighted_by(far, self.scratch + 2 * 4 * self.sizes.key)
        sums[OVER_THIRD] = self.over_rows(far, weighted[QUERIES + 3])
        queries[3] = list(map(self.machine.add, queries[3], far))
        far = self.add_blocks(self.zeros(), 0, _FAR_OF_KEYS, transpose=True)
        far = self.weighted_by(far, self.scratch + 4 * self.sizes.key)
        sums[OVER_SECOND] = self.over_rows(far, weighted[KEYS])
        keys[0] = list(map(self.machine.add, keys[0], far))
        rows = sorted(sums)
        for pair in zip(rows[::2], rows[1::2], strict=True):
            self.store_over_lanes([self.row_of(x) for x in pair], [sums[x] for x in pair])
        for part in range(4):
            near = (*_NEAR_OF_QUERIES[part], (part, DIAGONAL + part))
            self.to_buffer(0, part, self.add_blocks(queries[part], part, near, transpose=False))
            near = _NEAR_OF_KEYS[part]
            self.to_buffer(1, part, self.add_blocks(keys[part], part, near, transpose=True))
            own = self.scores_of(part, part, transpose=True)
            found = self.add_product(self.zeros(), weighted[QUERIES + part], own)
            self.to_buffer(DIAGONAL_BUFFER, part, found)

    def add_blocks(
        self,
        found: Sequence[Any],
        part: int,
        blocks: Sequence[tuple[int, int]],
        *,
        transpose: bool,
    ) -> list[Any]:
        """Adds what 16 rows have from others: of queries, or of keys from the blocks' transposes.

        Args:
            found: this warp's channels by the rows.
            part: of the rows.
            blocks: other parts, and their tiles.
            transpose: whether the rows are those of keys.
        """
        for other, tile in blocks:
            row, column = (other, part) if transpose else (part, other)
            right = self.scores_of(row, column, transpose=transpose)
            found = self.add_product(found, self.tile(tile), right)
        return list(found)

    def row_of(self, index: int) -> int:
        """Where a row of the sums is."""
        return index * 4 * self.sizes.key + self.plan.sums_at

    def weighted_by(self, found: Sequence[Any], start: IntLike) -> list[Any]:
        """Results times K float32 in shared memory."""
        weights = self.factors(start)
        return [self.machine.multiply(x, weights[i >> 1 & 1]) for i, x in enumerate(found)]

    def over_rows(self, found: Sequence[Any], weighted: Sequence[Any]) -> list[Any]:
        """For both channels results times weighted values, added up over this thread's rows."""
        m, sums = self.machine, [self.machine.zero()] * 2
        for i, word in enumerate(weighted):
            for half, value in enumerate(m.unpack(word)):
                sums[i & 1] = m.fma(value, found[2 * i + half], sums[i & 1])
        return sums

    def add_product(self, found: Sequence[Any], left: Any, right: Any) -> list[Any]:
        """Adds 16 channels of a tile's 16 rows times a 16 x 16 block."""
        m = self.machine
        return [
            x
            for i in range(2)
            for x in m.tensor_product(found[4 * i : 4 * i + 4], left, right[2 * i : 2 * i + 2])
        ]

    def tile(self, tile: IntLike) -> list[Any]:
        """A left operand: this warp's channels of a tile of 16 rows."""
        tile = tile if isinstance(tile, Int) else self.machine.constant(tile)
        return self.columns(self.slab * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at)

    def scores_of(self, row: IntLike, column: IntLike, *, transpose: bool) -> list[Any]:
        """A right operand from gradients of scores: columns by rows, or the transpose."""
        return self.block_of(self.plan.scores_at, row, column, transpose=transpose)

    def block_of(self, start: int, row: IntLike, column: IntLike, *, transpose: bool) -> list[Any]:
        """A right operand from a tile of 16 x 16 blocks."""
        at = self.block_place(start, row, column, rows_first=transpose)
        return self.machine.load_matrices(at, transpose=transpose)

    def zeros(self) -> list[Any]:
        """This warp's channels by 16 rows."""
        return [self.machine.zero()] * 8

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
            place = self.block_place(self.plan.scores_at, self.rows, self.rows)
            words, none = m.load_matrices(place, transpose=False), m.word(0)
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

    def to_buffer(self, buffer: int, part: int, found: Sequence[Any]) -> None:
        """This warp's channels by the rows of a part, to rows of 64 float32 of a channel each."""
        m, lane = self.machine, self.lane
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        for lower in range(2):
            channel = self.channel + 8 * lower
            at = channel * _CHANNEL_BYTES + (lane & 1) * 8 + start
            unit = (lane >> 1 & 1) ^ unit_mask(channel)
            for i in range(2):
                words = [m.bits(x) for x in found[4 * i + 2 * lower : 4 * i + 2 * lower + 2]]
                m.store_shared(at + ((unit ^ (4 * part + 2 * i)) << 4), words)

    def units(self, buffer: int) -> list[tuple[Int, Int]]:
        """Where this thread's two channels have each four of its rows in a buffer."""
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        channels = [self.pair * 2 + i for i in range(2)]
        starts = [(x * _CHANNEL_BYTES + start, self.part * 4 ^ unit_mask(x)) for x in channels]
        places = [[at + ((unit ^ i) << 4) for i in range(ROWS // 4)] for at, unit in starts]
        return list(zip(*places, strict=True))

    def read_rows(self, buffer: int) -> list[Pair]:
        """This thread's channels of its rows of a buffer."""
        m, found = self.machine, []
        for places in self.units(buffer):
            words = (m.load_shared(place, 4) for place in places)
            found += [each(m.float, pair) for pair in zip(*words, strict=True)]
        return found

    def buffer(self, buffer: int) -> list[tuple[Int, Int]]:
        """Where they are, row by row."""
        units = self.units(buffer)
        return [
            (low + 4 * (row & 3), high + 4 * (row & 3))
            for row in range(ROWS)
            for low, high in (units[row >> 2],)
        ]

    def read(self, places: tuple[Int, Int]) -> Pair:
        """Two float32."""
        m = self.machine
        return each(lambda place: m.float(m.load_shared(place, 1)[0]), places)

    def write(self, places: tuple[Int, Int], values: Pair) -> None:
        """The reverse."""
        for place, value in zip(places, values, strict=True):
            self.machine.store_shared(place, [self.machine.bits(value)])

    def store_sums(self, index: IntLike, values: Pair) -> None:
        """This thread's channels of the sums over rows."""
        m = self.machine
        index = index if isinstance(index, Int) else m.constant(index)
        self.store_pair(index * (4 * self.sizes.key) + self.plan.sums_at, values)

    def load_sums(self, index: int) -> Pair:
        """The reverse."""
        return self.load_pair(index * 4 * self.sizes.key + self.plan.sums_at)


def unit_mask(channel: Int) -> Int:
    """What units of four rows of a channel are permuted by in a buffer.

    So that neither one unit of every second of 16 channels, nor two units of four channels that
    follow each other, meet in a bank.
    """
    return (channel << 1 & 6) ^ (channel >> 1 & 2) ^ (channel >> 3 & 1)

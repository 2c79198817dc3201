"""Gradients of a chunk, each added up in the registers of tensor cores before threads take it.

What a row has from the states is weighted there and the products within the chunk add to it, so
that one buffer each of queries and keys, and one of the diagonal, go through shared memory, and
nothing is read between two barriers but what the same threads wrote. Sums over rows that reach
over other parts are made of the same registers.
"""

import functools
from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int
from structlayers.gla.pallas_gpu.chunk import (
    DIAGONAL,
    FAR_KEYS,
    FAR_QUERIES,
    KEYS,
    QUERIES,
    Pair,
    Weighed,
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
from structlayers.gla.pallas_gpu.gradient_warpgroups import Warpgroups
from structlayers.gla.pallas_gpu.layout import VALUE_TILE

# Tiles that meet blocks of dP, by four times the block's row or column within the chunk, and part.
_KEYS_BY = (
    *(DIAGONAL, KEYS, FAR_KEYS, FAR_KEYS),
    *(0, DIAGONAL + 1, KEYS + 1, KEYS + 1),
    *(0, 0, DIAGONAL + 2, KEYS + 2),
    *(0, 0, 0, DIAGONAL + 3),
)
_FAR_OF_QUERIES = ((0, FAR_KEYS), (1, KEYS + 1))
_FAR_OF_KEYS = ((2, QUERIES + 2), (3, FAR_QUERIES))
_DIAGONAL_BUFFER = 2  # where the gradients of gates follow


class Merged(Warpgroups):
    """The block's program for one chunk."""

    @override
    def run(self) -> None:
        self.begin()
        weighed, rows = self.find()
        self.give_rows(weighed, 2, rows)
        self.machine.loop(0, weighed.slow, 1, self.halve)

    def begin(self) -> None:
        """Makes the barriers."""
        m, plan = self.machine, self.plan
        with m.when(m.thread().equals(0)):
            for stage in range(plan.stages):
                m.barrier_init(plan.barriers_at + 8 * stage)
        m.synchronize()

    def find(self) -> tuple[Weighed, list[Pair]]:
        """Gives gradients of queries and keys; those of gates."""
        m = self.machine
        weighed = self.weigh()
        self.store_sums(self.part + BEFORE, weighed.before)
        self.store_sums(self.part + AFTER, weighed.after)
        queries, keys = self.read_values(self.sizes.value // VALUE_TILE)
        gates = self.load_gates()
        self.prefetch_later()
        m.synchronize()
        m.loop(0, weighed.slow, 1, self.part_scores)
        self.merge_queries(queries)
        self.merge_keys(keys)
        m.synchronize()
        weights = [each(m.exp2, gate) for gate in gates]
        given = self.give_queries(weighed, weights)
        rows = self.give_keys(weighed, weights, given)
        span = self.span(weighed)
        return weighed, [self.plus(row, span) for row in rows]

    # in the registers of tensor cores --------------------------------------------------------

    def merge_queries(self, found: Sequence[Any]) -> None:
        """Gradients of weighted queries to buffer 0, and sums over rows."""
        m, rows = self.machine, self.rows
        weighted = self.fragments(rows + QUERIES)
        found = self.scaled(found, rows + BEFORE)
        self.sum_rows(rows + QUERY_SUMS, found, weighted)

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
            return self.add_far(found, over, 2, OVER_THIRD, weighted)

        found = m.loop(0, self.flag(rows.equals(3)), 1, far, found)
        self.to_buffer(0, m.loop(0, rows + 1 - start, 1, near, found))

    def merge_keys(self, found: Sequence[Any]) -> None:
        """Those of weighted keys to buffer 1, on the diagonal to another, and sums over rows."""
        m, rows = self.machine, self.rows
        weighted = self.fragments(rows + KEYS)
        found = self.scaled(found, rows + AFTER)
        self.sum_rows(rows + KEY_SUMS, found, weighted)

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
            return self.add_far(found, over, 1, OVER_SECOND, weighted)

        first = self.flag(rows.equals(0))
        found = m.loop(0, first, 1, far, found)
        self.to_buffer(1, m.loop(0, rows * -1 + 3 - first * 2, 1, near, found))
        block = self.scores_of(rows, rows, transpose=True)
        found = self.add_product(self.zeros(), block, self.tile_rows(rows + QUERIES))
        self.to_buffer(_DIAGONAL_BUFFER, found)

    def flag(self, condition: Int) -> Int:
        """1 or 0."""
        m = self.machine
        return Int(m, m.select(condition, m.constant(1).value, m.constant(0).value))

    def add_far(
        self, found: Sequence[Any], over: Sequence[Any], part: int, sums: int, weighted: Any
    ) -> list[Any]:
        """Adds results of far tiles, weighted with the decay of a part, 1 or 2."""
        # `count_kept` may have written over the decay of part 0, and over no more
        over = self.scaled(over, self.machine.constant(0), self.scratch + part * 4 * self.sizes.key)
        self.sum_rows(self.machine.constant(sums), over, weighted)
        return [self.machine.add(x, y) for x, y in zip(found, over, strict=True)]

    def scaled(self, found: Sequence[Any], index: Int, start: Any = None) -> list[Any]:
        """Results times a row of K float32: of the sums, or from a place in shared memory."""
        m, scaled = self.machine, []
        if start is None:
            start = index * (4 * self.sizes.key) + self.plan.sums_at
        at = self.slab * 256 + (self.lane & 3) * 8 + start
        for tile in range(8):
            factors = [m.float(word) for word in m.load_shared(at + 32 * tile, 2)]
            for i, value in enumerate(found[4 * tile : 4 * tile + 4]):
                scaled.append(m.multiply(value, factors[i & 1]))
        return scaled

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

    # in threads ------------------------------------------------------------------------------

    def give_queries(self, weighed: Weighed, weights: Sequence[Pair]) -> list[Pair]:
        """Gives the gradients of queries; what rows give to the gates before them."""
        given, results = [], []
        rows = zip(
            self.tile_places(self.part + QUERIES),
            self.buffer(0),
            self.prefixes(weights),
            strict=True,
        )
        for query, place, weight in rows:
            query, gradient = self.load_packed(query), self.read(place)
            given.append(self.times(query, gradient))
            results.append(self.times(weight, gradient))
        self.give_rows(weighed, 0, results)
        return given

    def give_keys(
        self, weighed: Weighed, weights: Sequence[Pair], given: Sequence[Pair]
    ) -> list[Pair]:
        """Gives the gradients of keys; those of gates by all rows of the part."""
        m, downwards, diagonal = self.machine, [], []
        rows = zip(
            self.tile_places(self.part + DIAGONAL),
            self.buffer(_DIAGONAL_BUFFER),
            self.inverses(weights),
            given,
            strict=True,
        )
        for other, place, inverse, back in rows:
            other, own = self.load_packed(other), self.read(place)
            downwards.append(each(m.fma, each(m.negate, other), own, back))
            diagonal.append(self.times(own, inverse))
        upwards, results = [], []
        rows = zip(
            self.tile_places(self.part + KEYS),
            self.buffer(1),
            self.suffixes(weights),
            diagonal,
            strict=True,
        )
        for key, place, weight, other in reversed(list(rows)):
            key, gradient = self.load_packed(key), self.read(place)
            upwards.append(self.times(key, gradient))
            result = gradient if weight is None else self.times(weight, gradient)
            results.append(self.plus(result, other))
        self.give_rows(weighed, 1, results[::-1])
        return self.over_intervals(downwards, upwards[::-1])

    def give_rows(self, weighed: Weighed, result: int, rows: Sequence[Pair]) -> None:
        """Rows of a result to device memory, or where halving adds to them."""
        with self.machine.when(weighed.slow.equals(0)):
            self.store(result, rows)
        self.keep_rows(weighed, result, rows)

    def keep_rows(self, weighed: Weighed, result: int, rows: Sequence[Pair]) -> None:
        """Rows of a result to a buffer, if halving adds to them."""
        with self.machine.when(weighed.slow.equals(1)):
            for place, row in zip(self.buffer(result), rows, strict=True):
                self.write(place, row)
        self.machine.reconverge()

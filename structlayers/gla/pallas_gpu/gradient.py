"""Gradients of queries, keys and gates of a chunk, for all chunks at once.

A block of threads takes one chunk of one query head, with the states before it, S, and the
gradients of the states after it, dS', in bfloat16, from the recurrences in both directions, one
of them perhaps made again (`gradient_pairs`):

    dP = tril(dO V^T)    d(Q in the image) = dO S^T    d(K in the image) = V dS'^T

and from these the gradients of the tiles whose products the scores are. A gate takes its gradient
from the weights it is in: with w a weight that holds it and x the weighted value, ``x dx`` in
float32, summed over rows and intervals. Nothing is subtracted but within the 16 rows of a block on
the diagonal, where both terms have the same operands, rounded to bfloat16 in the same way, and
there only while the gates are not so small that this would cost digits.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import (
    DIAGONAL,
    HALVES,
    KEYS,
    QUERIES,
    Pair,
    Weighed,
    across,
    each,
)
from structlayers.gla.pallas_gpu.gradient_layout import (
    AFTER,
    BEFORE,
    KEY_SUMS,
    OVER_SECOND,
    OVER_THIRD,
    QUERY_SUMS,
    STAGES,
    Plan,
)
from structlayers.gla.pallas_gpu.gradient_products import DIAGONAL_BUFFER, Products
from structlayers.gla.pallas_gpu.layout import ROWS, permuted


class Program(Products):
    """The block's program for one chunk."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]):
        super().__init__(plan, machine, inputs)
        self.dq, self.dk, self.dgate = outputs
        self.weights: Sequence[Pair] = ()

    def run(self) -> None:
        """The chunk."""
        m = self.machine
        self.begin()
        weighed = self.weigh()
        self.store_sums(self.part + BEFORE, weighed.before)
        self.store_sums(self.part + AFTER, weighed.after)
        queries, keys = self.read_values()
        weights = self.kept_weights()
        self.prefetch_later()
        m.synchronize()
        m.loop(0, weighed.slow, 1, self.part_scores)
        self.merge(queries, keys)
        m.synchronize()
        given = self.give_queries(weighed, weights)
        rows = self.give_keys(weighed, weights, given)
        span = self.span(weighed)
        self.give(weighed, 2, [self.plus(row, span) for row in rows])
        m.loop(0, weighed.slow, 1, self.halve)

    def begin(self) -> None:
        """Makes the barriers, and asks for what is loaded first."""
        m = self.machine
        with m.when(m.thread().equals(0)):
            for barrier in range(STAGES + 1):
                m.barrier_init(self.plan.barriers_at + 8 * barrier)
        m.synchronize()
        self.ask()

    @override
    def fill_queries(self, words: Sequence[Any], weights: Sequence[Pair], known: Any) -> None:
        self.weights = weights
        super().fill_queries(words, weights, known)

    def kept_weights(self) -> list[Pair]:
        """Gates of this thread's rows."""
        # new values to the compiler: or it keeps their products as well
        found = self.machine.warpgroup_wait(0, [x for pair in self.weights for x in pair])
        return list(zip(found[::2], found[1::2], strict=True))

    # gradients -------------------------------------------------------------------------------

    def give_queries(self, weighed: Weighed, weights: Sequence[Pair]) -> list[Pair]:
        """Gives the gradients of queries; what rows give to the gates before them."""
        given, results = [], []
        rows = zip(
            self.tile_places(self.part + QUERIES),
            self.read_rows(0),
            self.prefixes(weights),
            strict=True,
        )
        for query, gradient, weight in rows:
            query = self.load_packed(query)
            given.append(self.times(query, gradient))
            results.append(self.times(weight, gradient))
        self.give(weighed, 0, results)
        return given

    def give_keys(
        self, weighed: Weighed, weights: Sequence[Pair], given: Sequence[Pair]
    ) -> list[Pair]:
        """Gives the gradients of keys; those of gates by all rows of the part."""
        m, downwards, diagonal = self.machine, [], []
        rows = zip(
            self.tile_places(self.part + DIAGONAL),
            self.read_rows(DIAGONAL_BUFFER),
            self.inverses(weights),
            given,
            strict=True,
        )
        for other, own, inverse, back in rows:
            other = self.load_packed(other)
            downwards.append(each(m.fma, each(m.negate, other), own, back))
            diagonal.append(self.times(own, inverse))
        upwards, results = [], []
        rows = zip(
            self.tile_places(self.part + KEYS),
            self.read_rows(1),
            self.suffixes(weights),
            diagonal,
            strict=True,
        )
        for key, gradient, weight, other in reversed(list(rows)):
            key = self.load_packed(key)
            upwards.append(self.times(key, gradient))
            result = gradient if weight is None else self.times(weight, gradient)
            results.append(self.plus(result, other))
        self.give(weighed, 1, results[::-1])
        return self.over_intervals(downwards, upwards[::-1])

    def over_intervals(
        self, downwards: Sequence[Pair | None], upwards: Sequence[Pair | None]
    ) -> list[Pair]:
        """For each row the sums of one list from it on, and of the other before it."""
        found = [self.nothing()] * len(downwards)
        total = None
        for row in reversed(range(len(downwards))):
            total = self.joined(total, downwards[row])
            found[row] = self.joined(found[row], total) or found[row]
        total = None
        for row, value in enumerate(upwards):
            found[row] = self.joined(found[row], total) or found[row]
            total = self.joined(total, value)
        return found

    def joined(self, left: Pair | None, right: Pair | None) -> Pair | None:
        """The sum of what there is."""
        if left is None or right is None:
            return left or right
        return self.plus(left, right)

    def add_all(self, places: Sequence[tuple[Int, Int]], rows: Sequence[Pair]) -> None:
        """Adds rows of this thread to a buffer."""
        for place, values in zip(places, rows, strict=True):
            self.write(place, self.plus(self.read(place), values))

    def give(self, weighed: Weighed, result: int, rows: Sequence[Pair]) -> None:
        """Rows of a result to device memory, or to a buffer, if halving adds to them."""
        with self.machine.when(weighed.slow.equals(0)):
            self.store(result, rows)
        with self.machine.when(weighed.slow.equals(1)):
            for place, row in zip(self.buffer(result), rows, strict=True):
                self.write(place, row)
        self.machine.reconverge()

    def store(self, result: int, rows: Iterable[Pair]) -> None:
        """Rows of a result to device memory: float32 gates, bfloat16 queries and keys."""
        for row, values in enumerate(rows):
            self.store_row(result, row, values)

    def store_row(self, result: int, row: int, values: Pair) -> None:
        """One of them."""
        m, sizes = self.machine, self.sizes
        array, size = ((self.dq, 2), (self.dk, 2), (self.dgate, 4))[result]
        heads, pitch, offset = sizes.heads, size * sizes.key, self.pair * (2 * size)
        words = [m.pack(*values)] if size == 2 else [m.bits(x) for x in values]
        target, inside, displacement = self.own_row(row, heads, self.head, pitch)
        with m.when(inside) if sizes.ragged else contextlib.nullcontext():
            m.store_global(array, target, pitch, offset, words, displacement=displacement)

    def span(self, weighed: Weighed) -> Pair:
        """What the gates of this thread's rows have from all that spans them."""
        nothing = self.nothing()
        span = nothing
        for group in range(2):
            start = self.plan.state_sums_at + group * 4 * self.sizes.key
            span = self.plus(span, self.load_pair(start))
        span = self.times(span, weighed.whole)
        for part in range(1, 4):
            later = self.choose(self.part < part, self.load_sums(QUERY_SUMS + part), nothing)
            span = self.plus(span, later)
        for part in range(3):
            earlier = self.part >= part + 1
            span = self.plus(span, self.choose(earlier, self.load_sums(KEY_SUMS + part), nothing))
        for part, sums in ((1, OVER_SECOND), (2, OVER_THIRD)):
            over = self.choose(self.part.equals(part), self.load_sums(sums), nothing)
            span = self.plus(span, over)
        return span

    # the diagonal by halving -----------------------------------------------------------------

    def halve(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Adds the gradients through the rows of blocks on the diagonal that are halved."""
        del index
        m = self.machine
        weights = [each(m.exp2, gate) for gate in self.load_gates()]
        scale = (self.scale, self.scale)
        queries, keys = self.load_unweighted()
        own = self.diagonal()
        self.add_all(
            self.buffer(0),
            [self.times(self.times(x, d), scale) for x, d in zip(keys, own, strict=True)],
        )
        self.add_all(self.buffer(1), [self.times(x, d) for x, d in zip(queries, own, strict=True)])
        for half in HALVES:
            self.store_level(weights, half)
            m.synchronize()
            for part in range(4):
                right = self.split_scores(part, half)
                found = self.add_product(self.zeros(), self.tile(DIAGONAL + part), right)
                self.to_buffer(3, part, found)
            m.synchronize()
            self.add_level(half, weights)
        for result in range(3):
            self.store(result, map(self.read, self.buffer(result)))
        return carried

    def diagonal(self) -> list[Pair]:
        """The gradient of each row's score with itself, twice."""
        m, found = self.machine, []
        for row in range(ROWS):
            at = permuted(self.part * 2 + (row >> 3), m.constant(row)) + self.plan.halved_at
            (word,) = m.load_shared(at + (128 * row + 4 * ((row & 7) >> 1)), 1)
            value = m.unpack(word)[row & 1]
            found.append((value, value))
        return found

    def split_scores(self, part: int, half: int) -> list[Any]:
        """A right operand: gradients of scores that a level splits, and their transposes."""
        m, words = self.machine, []
        lower, upper = (
            self.block_of(self.plan.halved_at, 0, part, transpose=x) for x in (False, True)
        )
        for index, both in enumerate(zip(lower, upper, strict=True)):
            column = (self.lane >> 2) + 8 * (index >> 1)
            row = (self.lane & 3) * 2 + 8 * (index & 1)
            values = self.plus(*(m.unpack(word) for word in both))
            words.append(
                m.pack(
                    *(
                        m.select(across(row + i, column, half), value, m.zero())
                        for i, value in enumerate(values)
                    )
                )
            )
        return words

    def add_level(self, half: int, weights: Sequence[Pair]) -> None:
        """Adds the gradients of one level's rows."""
        keys, queries, products = self.buffer(1), self.buffer(0), {}
        places = zip(self.tile_places(self.part + DIAGONAL), self.buffer(3), strict=True)
        rows = dict(enumerate(places))
        for row, weight in self.level(weights, half):
            mixed, gradient = self.load_packed(rows[row][0]), self.read(rows[row][1])
            products[row] = self.times(mixed, gradient)
            if row & half:
                gradient = self.times(gradient, (self.scale, self.scale))
            if weight is not None:
                gradient = self.times(gradient, weight)
            self.add_all([(queries if row & half else keys)[row]], [gradient])
        gates = self.buffer(2)
        for start in range(0, ROWS, 2 * half):
            left = [products[start + i] for i in range(half)]
            right = [products[start + half + i] for i in range(half)]
            sums = self.over_intervals([None] * half, left)
            sums += self.over_intervals(right, [None] * half)
            self.add_all(gates[start : start + 2 * half], sums)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`.

    Gradients of states are the last of the outputs, where another launch writes over them.
    """

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        inputs = [*inputs[:6], *outputs[3:], *inputs[6:]]
        Program(plan, machine, inputs, outputs[:3]).run()

    return run

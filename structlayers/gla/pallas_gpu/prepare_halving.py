"""Scores of a chunk on the diagonal, where gates are too small for quotients: by halving."""

import functools
from collections.abc import Callable, Sequence
from typing import override

from structlayers._core.simt.machine import Int
from structlayers.gla.pallas_gpu.chunk import HALVES, Pair, across
from structlayers.gla.pallas_gpu.layout import ROWS
from structlayers.gla.pallas_gpu.prepare_rows import DIAGONAL, FAR, KEYS, QUERIES, SHARING, Rows


class Halving(Rows):
    """What a team does if a row of its chunk may have to be halved, after all other scores."""

    def run(self) -> None:
        """Replaces scores of such rows in the scratch, by the team's first four warps."""
        queries, keys = self.load_unweighted()
        gates = self.load_gates()
        self.synchronize()
        self.decays_at, self.counts_at = self.array(DIAGONAL), self.array(FAR)
        weights, _ = self.decay(gates)
        self.synchronize()
        self.count_kept(self.from_start(weights, self.other_decay()))
        for row, (query, key) in enumerate(zip(queries, keys, strict=True)):
            self.store_row(row, QUERIES, query)
            self.store_row(row, KEYS, key)
        self.synchronize()
        kept = self.kept_of(self.warp & 3)
        self.replace(QUERIES, KEYS, kept, Int.equals)
        for half in HALVES:
            self.store_level(weights, half)
            self.synchronize()
            self.replace(DIAGONAL, DIAGONAL, kept, functools.partial(split, half=half))
            self.synchronize()

    def replace(self, left: int, right: int, kept: Int, chosen: Callable[[Int, Int], Int]) -> None:
        """Some scores of rows that are not kept, by products of two arrays."""
        m, part = self.machine, self.warp
        with m.when(self.warp < 4):
            words = m.load_matrices(self.block_place(self.scores_at, part, part), transpose=False)
            found = [value for word in words for value in m.unpack(word)]
            own = part * (ROWS * 128)
            product = self.product(own + self.array(left), own + self.array(right))
            found = self.where(
                lambda row, column: chosen(row, column) & (row >= kept), product, found
            )
            self.store_block(self.scores_at, part, part, found)
        m.reconverge()

    def kept_of(self, part: Int) -> Int:
        """How many of 16 rows are not halved. Those of the first 8 do not depend on the last."""
        m = self.machine
        first, last = (self.kept_rows(part * SHARING + half) for half in range(SHARING))
        return Int(m, m.select(first < self.height, first.value, (last + self.height).value))

    @override
    def store_level(self, weights: Sequence[Pair], half: int) -> None:
        if half < self.height:
            for row, values in self.level_rows(weights, half):
                self.store_row(row, DIAGONAL, values)
            return
        for this, load, factors in (
            (0, self.load_keys, self.suffixes(weights)),
            (1, self.load_queries, self.prefixes(weights)),
        ):
            with self.machine.when(self.of_half(this)):
                for row, values in enumerate(self.weighted(load(), factors)):
                    self.store_row(row, DIAGONAL, values)
        self.machine.reconverge()


def split(row: Int, column: Int, half: int) -> Int:
    """Whether the score of these rows is of those that a level splits."""
    return across(row, column, half) & (column < row)

"""Weights of tensor-core products that a block of threads makes of the factors itself.

An entry of a merged factor is a product of one entry of every level, for one path leads from an
input to an output. Small transforms have so few of them that the launch that would make them for
all blocks takes longer.
"""

import functools
from collections.abc import Mapping
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.butterfly.pallas_gpu.tensor_layout import Factor, Unmerged


class Merging:
    """What a lane needs to make its words of merged factors."""

    def __init__(self, unmerged: Unmerged, machine: Machine, factors: Any):
        self.unmerged, self.machine, self.factors = unmerged, machine, factors
        lane = machine.lane()
        self.row, self.column = lane >> 2, (lane & 3) * 2

    def words(self, factor: Factor, product: Int) -> list[Any]:
        """The four words of this lane of a product of 16 columns, in the order of `fragments`."""
        m, first = self.machine, factor.stride.bit_length() - 1
        levels = range(first, first + factor.radix.bit_length() - 1)
        places = factor.column(product, self.row), factor.column(product, self.column)
        path = _Path(m, self.factors, {at: self.address(at, *places) for at in levels})
        if factor.radix == 16:
            quarters = ((row, column) for column in range(2) for row in range(2))
            return [self.word(factor, path, *quarter) for quarter in quarters]
        same = (self.row >> len(levels)).equals(self.column >> len(levels))
        low, high = (self.word(factor, path, half, half) for half in range(2))
        zero = m.word(0)
        return [m.select(same, low, zero), zero, zero, m.select(same, high, zero)]

    def word(self, factor: Factor, path: "_Path", row: int, column: int) -> Any:
        """Two neighbours of one row, in one of the four quarters."""
        output = factor.column(0, 8 * row)
        sources = [factor.column(0, 8 * column + neighbour) for neighbour in range(2)]
        return self.machine.pack(
            *(
                path.product({at: self.offset(at, output, source) for at in path.addresses})
                for source in sources
            )
        )

    def address(self, level: int, output: Int, source: Int) -> Int:
        """Where the entry of a level stands on the way from a column to another."""
        unmerged, last = self.unmerged, self.unmerged.size - 1
        before = (1 << level) - 1 if unmerged.tied else level * (unmerged.size // 2)
        return self.offset(level, output & last, source & last) + 16 * before

    def offset[T: (Int, int)](self, level: int, output: T, source: T) -> T:
        """The same from the start of the level; additive where columns share no bits.

        On the way the bits of the levels that were applied are those of the output.
        """
        lower, upper = (output, source) if self.unmerged.increasing else (source, output)
        block = lower & ((1 << level) - 1)
        if not self.unmerged.tied:
            block = block + ((upper >> (level + 1)) << level)
        entry = ((output >> level) & 1) * 2 + ((source >> level) & 1)
        return block * 16 + entry * 4


class _Path:
    """Products of one entry a level, each loaded once."""

    def __init__(self, machine: Machine, factors: Any, addresses: Mapping[int, Int]):
        self.machine, self.factors, self.addresses = machine, factors, addresses
        self.loaded: dict[tuple[int, int], Any] = {}

    def product(self, offsets: Mapping[int, int]) -> Any:
        """Of the entries with these distances from the addresses of their levels."""
        entries = [self.load(level, offset) for level, offset in offsets.items()]
        return functools.reduce(self.machine.multiply, entries)

    def load(self, level: int, offset: int) -> Any:
        """An entry."""
        if (level, offset) not in self.loaded:
            m, address = self.machine, self.addresses[level]
            (word,) = m.load_global(self.factors, address, 1, displacement=offset)
            self.loaded[level, offset] = m.float(word)
        return self.loaded[level, offset]

"""Where the rows of a warp's tile lie in shared memory. Imports no Pallas.

A fragment of the tensor cores has rows ``g`` and ``g + 8``, g = lane / 4. Which row of the tile
that is, is free: pair (g, c), c = 0 .. 2 m - 1 for m fragments of 16 rows, is chosen such that the
eight rows of one load lie in different banks.
"""

import dataclasses
import functools

import numpy as np

from structlayers.equivariant.pallas_gpu.groups import groups

_BANKS = 32
_UNIT = 16  # bytes: what copies count in


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """Tile of `16 m` rows in pieces, each of which has 8 / pieces of the rows of a fragment's half.

    Attributes:
        pitch: bytes of a row.
        fragments: m.
        pieces: 1, 2, 4 or 8.
        gap: bytes between pieces.
    """

    pitch: int
    fragments: int
    pieces: int = 1
    gap: int = 0

    @property
    def rows(self) -> int:
        """Of the tile."""
        return 16 * self.fragments

    @property
    def piece_rows(self) -> int:
        """Rows of a piece."""
        return self.rows // self.pieces

    @property
    def piece_pitch(self) -> int:
        """Bytes from one piece to the next."""
        return self.piece_rows * self.pitch + self.gap

    @property
    def size(self) -> int:
        """Bytes of the tile, a multiple of 16."""
        return -(-self.pieces * self.piece_pitch // _UNIT) * _UNIT

    @property
    def among(self) -> int:
        """Values of g that share a piece."""
        return 8 // self.pieces

    @property
    def pair_pitch(self) -> int:
        """Bytes from (g, c) to (g, c + 1)."""
        return self.among * self.pitch

    def start(self, g: int) -> int:
        """Bytes from the start of the tile to (g, 0)."""
        return g // self.among * self.piece_pitch + g % self.among * self.pitch

    def copies(self) -> list[tuple[int, int, int]]:
        """Offsets of each copy in device and in shared memory, and its size."""
        if not self.gap:
            return [(0, 0, self.rows * self.pitch)]
        size = self.piece_rows * self.pitch
        return [(i * size, i * self.piece_pitch, size) for i in range(self.pieces)]


def _wavefronts(layout: RowLayout, lmax: int, itemsize: int) -> int:
    """Cycles of shared memory for one value of every group."""
    starts = np.array([layout.start(g) for g in range(8)])
    count = 0
    for parity in (0, 1):
        for group in groups(lmax, parity, 1):
            words = np.unique((starts[:, None] + itemsize * np.array(group)) // 4)
            count += int(np.bincount(words % _BANKS).max())
    return count


@functools.cache
def _layout(lmax: int, fragments: int, itemsize: int, pieces: int) -> tuple[float, RowLayout]:
    """The layout in so many pieces with its cycles, a tenth more if pieces are copied singly."""
    pitch = (lmax + 1) ** 2 * itemsize
    together = RowLayout(pitch, fragments, pieces)
    found = [(float(_wavefronts(together, lmax, itemsize)), together)]
    apart = RowLayout(pitch, fragments, pieces, _UNIT)
    if apart.piece_rows * pitch % _UNIT == 0:
        found.append((1.1 * _wavefronts(apart, lmax, itemsize), apart))
    return min(found, key=lambda pair: pair[0])


@functools.cache
def row_layouts(
    degrees: tuple[int, ...], fragments: int, itemsize: int, *, natural: bool = False
) -> tuple[RowLayout, ...]:
    """Layouts of several arrays whose rows are the same pairs (g, c), with few bank conflicts.

    Args:
        degrees: of each, the largest.
        fragments: m.
        itemsize: bytes of a number.
        natural: whether pair (g, c) must be row ``8 c + g``: one piece.

    Example:
        >>> row_layouts((4, 3), 2, 4)[0]
        RowLayout(pitch=100, fragments=2, pieces=4, gap=16)
    """
    candidates = [
        [_layout(degree, fragments, itemsize, pieces) for degree in degrees]
        for pieces in ((1,) if natural else (1, 2, 4, 8))
    ]
    best = min(candidates, key=lambda layouts: sum(cost for cost, _ in layouts))
    return tuple(layout for _, layout in best)

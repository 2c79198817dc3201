"""Sizes of the bfloat16 kernel, and where columns lie: factors, plans, layouts."""

import dataclasses

from structlayers._core.simt.machine import Int

BARRIER_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Factor:
    """A factor of radix R and stride s, as products of 16 or 32 columns each.

    Blocks of a radix below 16 are packed, 16 columns to a block-diagonal product.
    """

    radix: int
    stride: int

    @property
    def width(self) -> int:
        """Columns of one product."""
        return max(self.radix, 16)

    @property
    def tiles(self) -> int:
        """Tensor-core tiles of 16x16 in one product."""
        return (self.width // 16) ** 2

    @property
    def lane_words(self) -> int:
        """Words of a tile in each lane: of block-diagonal ones, the diagonal quarters alone."""
        return 4 if self.radix >= 16 else 2

    @property
    def reads_rows(self) -> bool:
        """Whether its columns are consecutive, so that it can take them from rows as they lie."""
        return self.stride == 1 and self.radix >= 16

    def weight_bytes(self, columns: int) -> int:
        """Of the fragments of all products of so many columns."""
        return columns // self.width * self.tiles * 128 * self.lane_words

    def column[T: (Int, int)](self, product: T, position: T) -> T:
        """Column at a position of a product; both may differ from thread to thread."""
        level = self.radix.bit_length() - 1
        block = product
        if self.radix < 16:
            block = (product << (4 - level)) + (position >> level)
            position = position & (self.radix - 1)
        shift = self.stride.bit_length() - 1
        outer, inner = block >> shift, block & (self.stride - 1)
        return (outer << (shift + level)) + (position << shift) + inner


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a kernel cuts rows and columns into tiles.

    Attributes:
        size: columns N.
        rows: of the whole batch.
        factors: in the order in which they are applied.
        cluster_size: blocks that share the columns.
        clusters: in the grid, a multiple of the segments.
        segments: of the columns, each of which is a cluster's; no factor leaves its segment.
        planes: groups of 8 rows in a tile.
        slots: tiles of an input in flight.
        warps: of a block.
    """

    size: int
    rows: int
    factors: tuple[Factor, ...]
    cluster_size: int = 1
    clusters: int = 132
    segments: int = 1
    planes: int = 1
    slots: int = 4
    warps: int = 16

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps

    @property
    def columns(self) -> int:
        """Of a block."""
        return self.size // self.cluster_size // self.segments

    @property
    def groups(self) -> int:
        """Groups of 32 columns of a warp."""
        return self.columns // 32 // self.warps

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return 8 * self.planes

    @property
    def tiles(self) -> int:
        """Of the batch."""
        return -(-self.rows // self.tile_rows)

    @property
    def pitch(self) -> int:
        """Bytes from row to row of an input tile: 16 more than a row, against bank conflicts."""
        return 2 * self.columns + 16

    @property
    def share(self) -> int:
        """Consecutive columns among those of a block for the crossing factor."""
        return self.crossing.stride // self.cluster_size // self.segments

    @property
    def buffer_bytes(self) -> int:
        """Of a tile column by column."""
        return self.planes * self.plane_bytes

    @property
    def plane_bytes(self) -> int:
        """Of 8 rows, column by column."""
        return 16 * self.columns

    @property
    def input_bytes(self) -> int:
        """Of one slot."""
        return self.tile_rows * self.pitch

    @property
    def consecutive(self) -> bool:
        """Whether some factor acts on neighbours; else there is one factor, of large stride."""
        return self.factors[0].stride == 1 or self.factors[-1].stride == 1

    @property
    def crossing(self) -> Factor:
        """The factor of largest stride, which crosses the blocks of a cluster."""
        return max(self.factors, key=lambda factor: factor.stride)


@dataclasses.dataclass(frozen=True)
class Unmerged:
    """Factors of radix 2, which a block of threads merges itself.

    Attributes:
        size: N; rows of the kernel hold one vector or several side by side.
        increasing: whether factors of small stride come first.
        tied: whether the blocks of a factor at the same offset share their values.
    """

    size: int
    increasing: bool
    tied: bool


@dataclasses.dataclass(frozen=True)
class Plan(Tiling):
    """Sizes of the kernel of the product.

    Attributes:
        staged: whether results are copied out from shared memory, row by row, or stored by
            threads; that takes less of it.
        weights_at: byte from which on its factors' fragments stand among the weights.
        unmerged: what stands in the place of weights, if not fragments.
    """

    staged: bool = True
    weights_at: int = 0
    unmerged: Unmerged | None = None

    @property
    def output_pitch(self) -> int:
        """Bytes from row to row of an output tile: 64 more than a row, against bank conflicts."""
        return 2 * self.columns + 64

    @property
    def output_bytes(self) -> int:
        """Of one output tile."""
        return self.tile_rows * self.output_pitch if self.staged else 0

    @property
    def fused(self) -> bool:
        """Whether the first factor reads input rows itself."""
        return self.factors[0].reads_rows

    @property
    def depth(self) -> int:
        """Intervals from the first step of a tile to its last."""
        return len(self.factors) + (not self.fused) + (self.cluster_size > 1) + self.staged

    @property
    def rings(self) -> tuple[int, int]:
        """Column buffers before and after the exchange: as many as steps use them at a time.

        Blocks of a cluster know at the end of an interval that the others have ended the one
        before, and may then send to their buffers again: hence two more after the exchange.
        """
        steps = len(self.factors) + (not self.fused) + 1
        if self.cluster_size == 1:
            return steps, 0
        before = self.factors.index(self.crossing) or 1
        before += not self.fused
        return before + 1, steps - before + 2

    @property
    def shared_bytes(self) -> int:
        """Barriers, slots, column buffers and output tiles."""
        columns = sum(self.rings) * self.buffer_bytes
        return BARRIER_BYTES + self.slots * self.input_bytes + columns + 2 * self.output_bytes


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns a block of threads holds: consecutive ones, or those of a crossing factor."""

    plan: Tiling
    crossing: Factor | None
    rank: Int

    def everywhere(self, column: Int) -> Int:
        """The column of the whole row that is this one of the block."""
        if self.crossing is None:
            return column + self.rank * self.plan.columns
        share = self.plan.share
        shift = share.bit_length() - 1
        inner = (column & (share - 1)) + self.rank * share
        return (column >> shift) * self.crossing.stride + inner

    @property
    def segments(self) -> int:
        """Runs of consecutive columns of the whole row."""
        return 1 if self.crossing is None else self.crossing.radix

    def place(self, column: Int) -> Int:
        """Place in a plane: each 8 permuted so that equal strides fall on different banks.

        Eight columns of any stride among the factors', and the pairs that the last step reads.
        The permutation hangs on the column of the whole row, so that blocks can exchange columns
        as they lie.
        """
        column_there = self.everywhere(column)
        twist = (column_there >> 2) & 6
        for factor in self.plan.factors:
            if factor.stride >= 8:
                spread = min(factor.radix, 8)
                step = (column_there >> (factor.stride.bit_length() - 1)) & (spread - 1)
                twist = twist ^ (step << (4 - spread.bit_length()))
        return column ^ twist

    def local(self, factor: Factor) -> Factor:
        """The factor as it acts on the columns of the block."""
        if self.crossing is None:
            return factor
        return Factor(factor.radix, self.plan.share)

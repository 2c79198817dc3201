"""Sizes of the bfloat16 kernel that sums the gradient of a merged factor over the rows."""

import dataclasses

from structlayers.butterfly.pallas_gpu.tensor_layout import BARRIER_BYTES, Factor, Tiling


@dataclasses.dataclass(frozen=True)
class Chain:
    """What the rows of one input go through until their sums are taken.

    Attributes:
        factor: applied to them, or None.
        transposed: whether they are brought into columns first.
    """

    factor: Factor | None
    transposed: bool

    @property
    def steps(self) -> int:
        """Intervals that this takes."""
        return self.transposed + (self.factor is not None)

    @property
    def ring(self) -> int:
        """Column buffers: one for each step, and one that the sums read."""
        return self.steps + 1 if self.steps else 0


@dataclasses.dataclass(frozen=True)
class GradientPlan(Tiling):
    """Sizes of the kernel of the gradients.

    Of one or two factors in the order of application, the gradient of one is summed up: the values
    are taken through those before it, cotangents through the transposed ones after it.

    Attributes:
        target: index of the factor.
    """

    target: int = 0

    @property
    def summed(self) -> Factor:
        """The factor whose gradient it is."""
        return self.factors[self.target]

    @property
    def chains(self) -> tuple[Chain, Chain]:
        """Of values and of cotangents."""
        before, after = self.factors[: self.target], self.factors[self.target + 1 :]
        return self._chain(before), self._chain(after)

    def _chain(self, factors: tuple[Factor, ...]) -> Chain:
        factor = factors[0] if factors else None
        return Chain(factor, not (factor or self.summed).reads_rows)

    @property
    def depth(self) -> int:
        """Intervals from the first step of a tile to its sums."""
        return max(chain.steps for chain in self.chains)

    @property
    def fragments(self) -> int:
        """Sums of each thread, by four: those of 16x8 entries, or of two 8x8 blocks."""
        factor = self.summed
        side = factor.width // 8
        each = side * side // 2 if factor.radix >= 16 else 1
        return self.groups * (32 // factor.width) * each

    @property
    def sets(self) -> int:
        """Sets of sums that are stored."""
        return self.clusters // self.segments

    @property
    def set_shape(self) -> tuple[int, int, int]:
        """Of a set: threads of all segments by warps, their fragments by lane, four entries."""
        return self.segments * self.warps, self.fragments * 32, 4

    @property
    def shared_bytes(self) -> int:
        """Barriers, slots and column buffers."""
        rings = sum(chain.ring for chain in self.chains) * self.buffer_bytes
        return BARRIER_BYTES + 2 * self.slots * self.input_bytes + rings

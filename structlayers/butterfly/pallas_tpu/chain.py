"""From factors in block form to passes over a tile of rows in VMEM.

A factor ``(S, P, s, R, R)`` of stride 1 mixes neighbours: runs of R lanes times ``R x R`` matrices,
for the matrix unit. One whose stride is a multiple of the 128 lanes mixes whole vector registers,
lane by lane: products and sums of the vector unit, in float32, that move no value between lanes.
Factors of smaller strides are merged into the one of stride 1 first.
"""

import dataclasses
import math
from collections.abc import Sequence

LANES = 128
# Widest product of neighbours, and largest radix across registers. Beyond them one matrix for
# the whole row, or XLA's products, do less work.
MAX_WIDTH = 512
MAX_RADIX = 16


@dataclasses.dataclass(frozen=True)
class Factor:
    """One factor in block form.

    Attributes:
        copies: P; 1 where all are alike.
        stride: s, 1 or a multiple of 128.
        radix: R.
    """

    copies: int
    stride: int
    radix: int

    @property
    def mixes_lanes(self) -> bool:
        """Whether it mixes neighbours, on the matrix unit."""
        return self.stride == 1


@dataclasses.dataclass(frozen=True)
class Pass:
    """Consecutive factors that are applied between a load and a store of every value.

    Attributes:
        factors: positions in the chain, in the order of application.
        stride: distance of the runs of 128 lanes that are mixed with each other; 1 for a factor
            that mixes lanes.
        members: how many runs are mixed with each other.
    """

    factors: tuple[int, ...]
    stride: int = 1
    members: int = 1


@dataclasses.dataclass(frozen=True)
class Chain:
    """Factors in the order of application to rows of `size` values."""

    size: int
    factors: tuple[Factor, ...]

    def passes(self, most_members: int) -> tuple[Pass, ...]:
        """Groups the factors, up to `most_members` runs of lanes in a pass across registers.

        Example:
            >>> chain = Chain(1024, tuple(Factor(1, s, 2) for s in (128, 256, 512)))
            >>> [(step.factors, step.members) for step in chain.passes(4)]
            [((0, 1), 4), ((2,), 2)]
        """
        passes: list[Pass] = []
        for index, factor in enumerate(self.factors):
            if factor.mixes_lanes:
                passes.append(Pass((index,)))
                continue
            new = Pass((index,), factor.stride, factor.radix)
            if passes and passes[-1].stride > 1:
                last = passes[-1]
                low = min(last.stride, new.stride)
                high = max(last.stride * last.members, new.stride * new.members)
                if high // low <= most_members:
                    passes[-1] = Pass((*last.factors, index), low, high // low)
                    continue
            passes.append(new)
        return tuple(passes)


def merged_into_lanes(radices: Sequence[int]) -> int:
    """How many of the factors of smallest stride are merged into the one that mixes lanes.

    Args:
        radices: of all factors, by increasing stride.

    Raises:
        NotImplementedError: the strides do not fit the 128 lanes of a register.

    Example:
        >>> merged_into_lanes((16, 16, 4)), merged_into_lanes((256, 3))
        (2, 1)
    """
    widths = [math.prod(radices[: count + 1]) for count in range(len(radices))]
    count = 1 + next((i for i, width in enumerate(widths) if width % LANES == 0), len(widths))
    if count > len(widths):
        raise NotImplementedError(
            f"N = {widths[-1]} is no multiple of the {LANES} lanes of a register"
        )
    width = widths[count - 1]
    if width > MAX_WIDTH:
        raise NotImplementedError(
            f"the factors of radices {tuple(radices[:count])} meet the {LANES} lanes of a register "
            f"at stride {width} only, above {MAX_WIDTH}: as matrices they would be dense"
        )
    for radix in radices[count:]:
        if radix > MAX_RADIX:
            raise NotImplementedError(
                f"radix {radix} across registers is above {MAX_RADIX}: it belongs on the matrix "
                "unit, where it would have to be transposed"
            )
    return count

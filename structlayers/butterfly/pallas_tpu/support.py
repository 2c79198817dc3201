"""What the TPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

from collections.abc import Sequence
from typing import Any

from structlayers._core.pallas import tpu_kernels_run, tpu_matrix_width, tpu_vmem_bytes
from structlayers.butterfly.factors import twiddle_sizes
from structlayers.butterfly.pallas_tpu.chain import LANES, Chain, Factor, merged_into_lanes
from structlayers.butterfly.pallas_tpu.memory import plan

_DTYPES = ("float32", "bfloat16", "complex64")


def check_butterfly(x: Any, twiddle: Any, *, platform: str) -> None:
    """Whether the kernels serve `butterfly_multiply`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    _check_where(x, platform)
    sizes = twiddle_sizes(twiddle.shape)
    if sizes.size < LANES:
        raise NotImplementedError(f"N = {sizes.size} is below the {LANES} lanes of a register")
    _check_memory(x, butterfly_chain(sizes.levels, sizes.tied))


def check_blocks(x: Any, blocks: Sequence[Any], *, platform: str) -> None:
    """Whether the kernels serve `block_butterfly_multiply`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    _check_where(x, platform)
    count = merged_into_lanes([weights.shape[-1] for weights in blocks])
    width = blocks[count - 1].shape[2] * blocks[count - 1].shape[3]
    copies = max(
        weights.shape[1] * weights.shape[2] * weights.shape[3] for weights in blocks[:count]
    )
    factors = [Factor(max(1, copies // width), 1, width)]
    factors += [Factor(weights.shape[1], *weights.shape[2:4]) for weights in blocks[count:]]
    _check_memory(x, Chain(blocks[-1].shape[2] * blocks[-1].shape[3], tuple(factors)))


def lane_levels(levels: int) -> int:
    """Levels that are merged into matrices for the matrix unit, as wide as it is."""
    return min(levels, tpu_matrix_width().bit_length() - 1)


def butterfly_chain(levels: int, tied: bool) -> Chain:
    """The chain of one block of a butterfly, by increasing stride."""
    lanes = lane_levels(levels)
    copies = [1 if tied else 2 ** (levels - level) for level in range(levels + 1)]
    factors = [Factor(copies[lanes], 1, 2**lanes)]
    factors += [Factor(copies[level + 1], 2**level, 2) for level in range(lanes, levels)]
    return Chain(2**levels, tuple(factors))


def _check_where(x: Any, platform: str) -> None:
    if not tpu_kernels_run(platform):
        raise NotImplementedError(f"it is for TPU, this is {platform}")
    if x.dtype.name not in _DTYPES:
        raise NotImplementedError(f"it takes {', '.join(_DTYPES)}, not {x.dtype.name}")


def _check_memory(x: Any, chain: Chain) -> None:
    planes = 2 if x.dtype.kind == "c" else 1
    for backward in (False, True):
        plan(chain, planes, x.dtype.itemsize // planes, 1, tpu_vmem_bytes(), backward=backward)

"""What the TPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

from collections.abc import Sequence
from typing import Any

import jax

from structlayers._core.checks import log2_exact
from structlayers._core.pallas import tpu_kernels_run, tpu_matrix_width, tpu_vmem_bytes
from structlayers.butterfly.factors import TwiddleShape, twiddle_sizes
from structlayers.butterfly.monarch.shapes import MonarchSizes, monarch_sizes
from structlayers.butterfly.pallas_tpu.chain import (
    LANES,
    MAX_RADIX,
    MAX_WIDTH,
    Chain,
    Factor,
    merged_into_lanes,
)
from structlayers.butterfly.pallas_tpu.memory import plan
from structlayers.butterfly.pallas_tpu.monarch.groups import find_groups, tile_rows

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
    _check_memory(x, _butterfly_chain(sizes, lane_levels(x.dtype, sizes)))


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


def check_monarch(x: Any, blocks1: Any, blocks2: Any, *, platform: str) -> None:
    """Whether the kernels serve `monarch_multiply`: as butterfly factors, or packed into groups.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    _check_where(x, platform)
    sizes = monarch_sizes(blocks1, blocks2)
    chain = monarch_chain(sizes)
    if chain is not None:
        _check_memory(x, chain)
        return
    if x.dtype.kind == "c":
        raise NotImplementedError(
            f"complex numbers only where blocks of shapes {blocks1.shape} and {blocks2.shape} are "
            f"butterfly factors of whole registers: (k, p, p) and (p, k, k), p a multiple of "
            f"{LANES} and k at most {MAX_RADIX}"
        )
    groups = find_groups(sizes, tpu_matrix_width())
    for backward in (False, True):
        tile_rows(groups, x.dtype.itemsize, 1, tpu_vmem_bytes(), backward=backward)


def monarch_chain(sizes: MonarchSizes) -> Chain | None:
    """Square blocks as factors of stride 1 and of whole registers; None where they are none."""
    square = sizes.q == sizes.p == sizes.l and sizes.r == sizes.s
    if not square or sizes.p % LANES or sizes.p > MAX_WIDTH or sizes.r > MAX_RADIX:
        return None
    return Chain(sizes.middle, (Factor(sizes.k, 1, sizes.p), Factor(1, sizes.l, sizes.r)))


def lane_levels(dtype: Any, sizes: TwiddleShape) -> int:
    """Levels merged into matrices: as wide as the matrix unit, 128 where that does not fit."""
    narrow, wide = (min(sizes.levels, log2_exact(w)) for w in (LANES, tpu_matrix_width()))
    try:
        _check_memory(jax.ShapeDtypeStruct((1, sizes.size), dtype), _butterfly_chain(sizes, wide))
    except NotImplementedError:
        return narrow
    return wide


def _butterfly_chain(sizes: TwiddleShape, lanes: int) -> Chain:
    """The chain of one block, by increasing stride."""
    levels = sizes.levels
    copies = [1 if sizes.tied else 2 ** (levels - level) for level in range(levels + 1)]
    factors = [Factor(copies[lanes], 1, 2**lanes)]
    factors += [Factor(copies[level + 1], 2**level, 2) for level in range(lanes, levels)]
    return Chain(sizes.size, tuple(factors))


def _check_where(x: Any, platform: str) -> None:
    if not tpu_kernels_run(platform):
        raise NotImplementedError(f"it is for TPU, this is {platform}")
    if x.dtype.name not in _DTYPES:
        raise NotImplementedError(f"it takes {', '.join(_DTYPES)}, not {x.dtype.name}")


def _check_memory(x: Any, chain: Chain) -> None:
    planes = 2 if x.dtype.kind == "c" else 1
    for backward in (False, True):
        plan(chain, planes, x.dtype.itemsize // planes, 1, tpu_vmem_bytes(), backward=backward)

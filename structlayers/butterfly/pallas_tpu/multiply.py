"""The functions behind the public products on TPU."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.operands import pad_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.factors import (
    block_directions,
    factor_blocks,
    merge_levels,
    merge_pair,
    twiddle_sizes,
)
from structlayers.butterfly.monarch.shapes import monarch_sizes
from structlayers.butterfly.pallas_tpu.apply import apply_chain
from structlayers.butterfly.pallas_tpu.chain import merged_into_lanes
from structlayers.butterfly.pallas_tpu.monarch import apply
from structlayers.butterfly.pallas_tpu.support import lane_levels, monarch_chain
from structlayers.butterfly.permutations import apply_permutation


def butterfly_multiply(
    x: jax.Array,
    twiddle: jax.Array,
    permutation: Sequence[ArrayLike] | None,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies ``B_{K-1} P_{K-1} ... B_0 P_0``, each block in one pass over memory.

    Args:
        x: ``(*B, n)``, n at most N.
        twiddle: ``(S, K, M, N/2, 2, 2)`` or ``(S, K, N-1, 2, 2)``, N at least 128.
        permutation: One permutation of N per block, or None.
        increasing_stride: Direction of block 0.
        alternating: Whether the direction alternates.
        out_features: Number of outputs kept.
        precision: Of the matrix products; None is the highest.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    sizes = twiddle_sizes(twiddle.shape)
    precision = canonicalize_precision(precision)
    x = pad_features(x, sizes.size)
    for k, increasing in enumerate(block_directions(sizes.blocks, increasing_stride, alternating)):
        if permutation is not None:
            parts = x.reshape(*x.shape[:-1], -1, sizes.size)
            x = apply_permutation(parts, permutation[k]).reshape(x.shape)
        lanes = lane_levels(x.dtype, sizes)
        blocks = [merge_levels(twiddle, k, 0, lanes, increasing)]
        blocks += [factor_blocks(twiddle, k, level) for level in range(lanes, sizes.levels)]
        x = _apply(x, blocks if increasing else blocks[::-1], sizes.size, precision)
    return x[..., :out_features]


def block_butterfly_multiply(
    x: jax.Array,
    blocks: Sequence[jax.Array],
    *,
    increasing_stride: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies factors in block form in one pass over memory.

    Args:
        x: ``(*B, n)``, n at most N.
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride.
        increasing_stride: Whether the first array is applied first.
        out_features: Number of outputs kept.
        precision: Of the matrix products; None is the highest.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    count = merged_into_lanes([weights.shape[-1] for weights in blocks])
    lanes = functools.reduce(
        lambda low, high: merge_pair(low, high, increasing_stride), blocks[1:count], blocks[0]
    )
    ordered = [lanes, *blocks[count:]]
    size = blocks[-1].shape[2] * blocks[-1].shape[3]
    x = _apply(
        pad_features(x, size),
        ordered if increasing_stride else ordered[::-1],
        size,
        canonicalize_precision(precision),
    )
    return x[..., :out_features]


def monarch_multiply(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiplies by a Monarch matrix in one pass over memory.

    Args:
        x: `(*B, n)`, n at most `k p`.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`.
        out_features: number of outputs kept.
        precision: of the products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    if monarch_chain(monarch_sizes(blocks1, blocks2)) is None:
        return apply.monarch_multiply(
            x, blocks1, blocks2, out_features=out_features, precision=precision
        )
    # middle value m = j p + i goes to block i: the stride of the second factor is p
    return block_butterfly_multiply(
        x,
        (blocks1[None, :, None], blocks2[None, None]),
        out_features=out_features,
        precision=precision,
    )


def _apply(
    x: jax.Array, blocks: Sequence[jax.Array], size: int, precision: jax.lax.Precision
) -> jax.Array:
    if 0 in x.shape:
        return jnp.zeros((*x.shape[:-1], blocks[0].shape[0] * size), x.dtype)
    return apply_chain(x, tuple(blocks), precision)

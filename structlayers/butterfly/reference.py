"""The definition of the butterfly products: one factor at a time, plain, any floating dtype.

Oracle of the family's tests; in float64 under ``jax.enable_x64``. Slow: every factor is one pass
over the data.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.operands import pad_features
from structlayers._core.precision import PrecisionLike, accumulation_dtype
from structlayers.butterfly.factors import block_directions, factor_blocks, twiddle_sizes
from structlayers.butterfly.permutations import apply_permutation


def _apply_factor(x: jax.Array, weights: jax.Array) -> jax.Array:
    """``out[s, p, i, k] = sum_j W[s, p, k, i, j] x[s, p, j, k]``.

    Args:
        x: ``(*B, S, N)``.
        weights: ``(S, P, s, R, R)``, ``P`` 1 when tied.

    Returns:
        Array ``(*B, S, N)``.
    """
    stacks, _, stride, radix, _ = weights.shape
    weights = weights.transpose(0, 1, 3, 4, 2)  # S P i j k
    weights = weights.reshape((1,) * (x.ndim - 2) + weights.shape)
    p = x.shape[-1] // (radix * stride)
    parts = x.reshape(*x.shape[:-2], stacks, p, 1, radix, stride)  # *B S P 1 j k
    return jnp.sum(weights * parts, axis=-2).reshape(x.shape)


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
    """Applies ``B_{K-1} P_{K-1} ... B_0 P_0`` factor by factor.

    Args:
        x: ``(*B, n)``, n at most N.
        twiddle: ``(S, K, M, N/2, 2, 2)`` or ``(S, K, N-1, 2, 2)``.
        permutation: One permutation of N per block, or None.
        increasing_stride: Direction of block 0.
        alternating: Whether the direction alternates.
        out_features: Number of outputs kept.
        precision: Not used: there is no matrix product.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    del precision
    sizes = twiddle_sizes(twiddle.shape)
    dtype = x.dtype
    # *B S N: every stack sees the same input
    x = pad_features(x.astype(accumulation_dtype(dtype)), sizes.size)[..., None, :]
    x = jnp.broadcast_to(x, (*x.shape[:-2], sizes.stacks, sizes.size))
    for k, increasing in enumerate(block_directions(sizes.blocks, increasing_stride, alternating)):
        if permutation is not None:
            x = apply_permutation(x, permutation[k])
        levels = range(sizes.levels)
        for level in levels if increasing else reversed(levels):
            x = _apply_factor(x, factor_blocks(twiddle, k, level))
    x = x.reshape(*x.shape[:-2], sizes.stacks * sizes.size)
    return x[..., :out_features].astype(dtype)


def block_butterfly_multiply(
    x: jax.Array,
    blocks: Sequence[jax.Array],
    *,
    increasing_stride: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies factors in block form, one at a time.

    Args:
        x: ``(*B, n)``, n at most N.
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride.
        increasing_stride: Whether the first array is applied first.
        out_features: Number of outputs kept.
        precision: Not used: there is no matrix product.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    del precision
    stacks, _, stride, radix, _ = blocks[-1].shape
    size = stride * radix
    dtype = x.dtype
    x = pad_features(x.astype(accumulation_dtype(dtype)), size)[..., None, :]
    x = jnp.broadcast_to(x, (*x.shape[:-2], stacks, size))
    for weights in blocks if increasing_stride else reversed(blocks):
        x = _apply_factor(x, weights)
    x = x.reshape(*x.shape[:-2], stacks * size)
    return x[..., :out_features].astype(dtype)

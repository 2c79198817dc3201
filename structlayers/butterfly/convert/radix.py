"""Between radix-2 twiddles and factors of larger radix in block form."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact, require_power_of_two
from structlayers.butterfly.factors import (
    merge_levels,
    merge_pair,
    twiddle_sizes,
)
from structlayers.butterfly.ops.arguments import check_blocks


def merge_butterfly(
    twiddle: ArrayLike,
    radices: Sequence[int] | None = None,
    *,
    increasing_stride: bool = True,
) -> tuple[jax.Array, ...]:
    """Merges consecutive radix-2 factors of one butterfly into factors of larger radix.

    Every entry of a merged factor is a product of twiddle entries, so the result is exact up to
    rounding and costs ``O(N R)`` multiplications for radix R.

    Args:
        twiddle: Twiddle of one block: ``(S, 1, M, N/2, 2, 2)`` or ``(S, 1, N-1, 2, 2)``.
        radices: Powers of two, by increasing stride, with product N. None: one factor of radix N.
        increasing_stride: Multiplication order of the factors inside a merged one.

    Returns:
        Arrays ``(S, P, s, R, R)`` for `block_butterfly_multiply` in the same direction; ``P = 1``
        if tied.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If there are several blocks, or the radices do not fit.

    Example:
        >>> blocks = merge_butterfly(jnp.ones((1, 1, 3, 4, 2, 2)), (4, 2))
        >>> [block.shape for block in blocks]
        [(1, 2, 1, 4, 4), (1, 1, 4, 2, 2)]

    References:
        Dao et al., "Monarch", 2022, arXiv:2204.00595, section 3.1 (butterflies are Monarch).
    """
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    if sizes.blocks != 1:
        raise ValueError(f"twiddle must have one block to merge, got shape {twiddle.shape}")
    radices = (sizes.size,) if radices is None else tuple(radices)
    levels = [require_power_of_two("radix", radix).bit_length() - 1 for radix in radices]
    if math.prod(radices) != sizes.size:
        raise ValueError(f"radices must have product N = {sizes.size}, got {radices}")
    blocks, start = [], 0
    for number in levels:
        stride = 2**start
        if number:
            block = merge_levels(twiddle, 0, start, start + number, increasing_stride)
        else:
            copies = 1 if sizes.tied else sizes.size // stride
            block = jnp.ones((sizes.stacks, copies, stride, 1, 1), twiddle.dtype)
        blocks.append(block)
        start += number
    return tuple(blocks)


def merge_blocks(
    blocks: Sequence[ArrayLike],
    groups: Sequence[int],
    *,
    increasing_stride: bool = True,
) -> tuple[jax.Array, ...]:
    """Merges consecutive factors in block form, of any radices.

    Args:
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride, all of one dtype.
        groups: How many consecutive factors become one; the sum is their number.
        increasing_stride: Multiplication order of the factors.

    Returns:
        One array per group, whose radix is the product of its factors' radices.

    Raises:
        TypeError: If a block holds integers.
        ValueError: If the shapes or the groups do not fit.

    Example:
        >>> blocks = (jnp.ones((1, 2, 1, 3, 3)), jnp.ones((1, 1, 3, 2, 2)))
        >>> [block.shape for block in merge_blocks(blocks, (2,))]
        [(1, 1, 1, 6, 6)]
    """
    arrays, _, _ = check_blocks(blocks)
    groups = tuple(groups)
    if sum(groups) != len(arrays) or any(number < 1 for number in groups):
        raise ValueError(f"groups must be positive with sum {len(arrays)}, got {groups}")
    merged, start = [], 0
    for number in groups:
        product = arrays[start]
        for high in arrays[start + 1 : start + number]:
            product = merge_pair(product, high, increasing_stride)
        merged.append(product)
        start += number
    return tuple(merged)


def split_blocks(
    blocks: Sequence[ArrayLike], *, increasing_stride: bool = True, tied: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Splits factors of radix a power of two into radix-2 factors: the inverse of merging.

    Each factor is halved into one of ``R1 = 2**(log2(R) // 2)`` and one of ``R2 = R / R1``: its
    entries at fixed outer indices form ``R2 x R1`` matrices, of rank one if and only if the
    factor is such a product. Their best rank-one approximations give the halves, and so on down
    to radix 2. Exact up to rounding for merged butterflies; the residual tells the rest.

    Args:
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride, R powers of two, ``P = N/(R s)``
            or 1 where all p share their values.
        increasing_stride: Multiplication order of the factors.
        tied: Whether to look for a tied twiddle; then every P must be 1.

    Returns:
        The twiddle ``(S, 1, M, N/2, 2, 2)``, or tied ``(S, 1, N-1, 2, 2)``; and the largest
        relative error ``||W - merged||_F / ||W||_F`` over the given factors, a scalar.

    Raises:
        TypeError: If a block holds integers.
        ValueError: If a radix is no power of two, or the shapes do not fit.

    Example:
        >>> twiddle = jnp.arange(1.0, 49.0).reshape(1, 1, 3, 4, 2, 2)
        >>> split, residual = split_blocks(merge_butterfly(twiddle, (8,)))
        >>> split.shape, bool(residual < 1e-6)
        ((1, 1, 3, 4, 2, 2), True)

    References:
        Zheng, Riccietti, Gribonval, "Efficient Identification of Butterfly Sparse Matrix
        Factorizations", 2021, arXiv:2110.01230, section 4.
    """
    arrays, stacks, size = check_blocks(blocks)
    factors: list[jax.Array] = []
    residuals = [jnp.zeros((), jnp.finfo(arrays[0].dtype).dtype)]
    for g, weights in enumerate(arrays):
        _, p, stride, radix, _ = weights.shape
        require_power_of_two(f"radix of blocks[{g}]", radix)
        if tied and p > 1:
            raise ValueError(f"blocks[{g}] must have P = 1 for a tied twiddle, got P = {p}")
        if radix == 1:
            continue
        if not tied:
            shape = (stacks, size // (radix * stride), stride, radix, radix)
            weights = jnp.broadcast_to(weights, shape)
        parts = _split(weights, increasing_stride, tied)
        product = parts[0]
        for high in parts[1:]:
            product = merge_pair(product, high, increasing_stride)
        norm = jnp.linalg.norm(weights.ravel())
        error = jnp.linalg.norm((weights - product).ravel())
        residuals.append(error / jnp.where(norm > 0, norm, jnp.ones_like(norm)))
        factors += parts
    if tied:
        empty = jnp.zeros((stacks, 0, 2, 2), arrays[0].dtype)
        twiddle = jnp.concatenate([empty, *(part[:, 0] for part in factors)], axis=1)
    elif factors:
        twiddle = jnp.stack([part.reshape(stacks, -1, 2, 2) for part in factors], axis=1)
    else:
        twiddle = jnp.zeros((stacks, 0, 0, 2, 2), arrays[0].dtype)
    return twiddle[:, None], jnp.max(jnp.stack(residuals))


def _split(weights: jax.Array, increasing_stride: bool, tied: bool) -> list[jax.Array]:
    """Radix-2 factors ``(S, P', s', 2, 2)`` of a factor ``(S, P, s, R, R)``, by stride.

    With ``i = (i2, i1)`` and ``j = (j2, j1)``, as in `merge_pair`:
    ``W[i, j] = high[(i1,k), i2, j2] low[(p,j2), k, i1, j1]`` when increasing, and
    ``W[i, j] = low[(p,i2), k, i1, j1] high[(j1,k), i2, j2]`` when decreasing. A tied ``low`` does
    not depend on j2 or i2, which then is one more row index of the rank-one matrices.
    """
    stacks, p, stride, radix, _ = weights.shape
    if radix == 2:
        return [weights]
    r1 = 2 ** ((radix.bit_length() - 1) // 2)
    r2 = radix // r1
    # axes S P k, then the fixed (i1, j2) or (j1, i2), then rows and columns
    axes = (0, 1, 2, 4, 5, 3, 6) if increasing_stride else (0, 1, 2, 6, 3, 5, 4)
    w = weights.reshape(stacks, p, stride, r2, r1, r2, r1).transpose(axes)
    if tied:  # (i1; j2 i2 | j1), or (j1; i2 j2 | i1)
        u, v = _rank_one(w.reshape(stacks, p, stride, r1, r2 * r2, r1))
        u, v = u.reshape(stacks, p, stride, r1, r2, r2), v[:, :, :, :, None]
    else:
        u, v = _rank_one(w)
    if increasing_stride:
        high = u.transpose(0, 1, 3, 2, 5, 4)  # S P (i1 k) i2 j2
        low = v.transpose(0, 1, 4, 2, 3, 5)  # S (P j2) k i1 j1
    else:
        high = u.transpose(0, 1, 3, 2, 4, 5)  # S P (j1 k) i2 j2
        low = v.transpose(0, 1, 4, 2, 5, 3)  # S (P i2) k i1 j1
    high = high.reshape(stacks, p, r1 * stride, r2, r2)
    low = low.reshape(stacks, -1, stride, r1, r1)
    return _split(low, increasing_stride, tied) + _split(high, increasing_stride, tied)


def _rank_one(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Best rank-one approximation ``u v^T`` of every matrix, its size shared between both."""
    u, sigma, vh = jnp.linalg.svd(matrices, full_matrices=False)
    root = jnp.sqrt(sigma[..., :1]).astype(u.dtype)
    return u[..., 0] * root, vh[..., 0, :] * root

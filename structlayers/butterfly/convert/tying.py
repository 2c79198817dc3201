"""Between tied and untied twiddles."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers.butterfly.factors import twiddle_sizes


def untie_butterfly(twiddle: ArrayLike) -> jax.Array:
    """The untied twiddle of the same matrix: every shared block repeated.

    Args:
        twiddle: Tied ``(S, K, N-1, 2, 2)``, or untied, which comes back as it is.

    Returns:
        Array ``(S, K, M, N/2, 2, 2)``.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If no butterfly has its shape.

    Example:
        >>> untie_butterfly(jnp.ones((1, 1, 7, 2, 2))).shape
        (1, 1, 3, 4, 2, 2)
    """
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    if not sizes.tied:
        return twiddle
    if not sizes.levels:
        return jnp.zeros((sizes.stacks, sizes.blocks, 0, 0, 2, 2), twiddle.dtype)
    levels = []
    for level in range(sizes.levels):
        stride = 2**level
        shared = twiddle[:, :, stride - 1 : 2 * stride - 1]
        levels.append(jnp.tile(shared, (1, 1, sizes.size // (2 * stride), 1, 1)))
    return jnp.stack(levels, axis=2)


def tie_butterfly(twiddle: ArrayLike) -> jax.Array:
    """The tied twiddle nearest to an untied one, factor by factor: the mean over the copies.

    Exact where the copies agree; otherwise each factor is the closest tied one in Frobenius norm
    (the product need not be). Blocks that agree up to scale or sign only, as those of two
    equal butterflies can, are averaged as they stand.

    Args:
        twiddle: Untied ``(S, K, M, N/2, 2, 2)``, or tied, which comes back as it is.

    Returns:
        Array ``(S, K, N-1, 2, 2)``.

    Raises:
        TypeError: If the twiddle holds integers.
        ValueError: If no butterfly has its shape.

    Example:
        >>> tie_butterfly(jnp.ones((1, 1, 3, 4, 2, 2))).shape
        (1, 1, 7, 2, 2)
    """
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    if sizes.tied:
        return twiddle
    lead = (sizes.stacks, sizes.blocks)
    levels = [jnp.zeros((*lead, 0, 2, 2), twiddle.dtype)]
    for level in range(sizes.levels):
        copies = twiddle[:, :, level].reshape(*lead, -1, 2**level, 2, 2)
        # about the first copy, so that equal copies give themselves and not a rounded mean
        first = copies[:, :, :1]
        levels.append((first + (copies - first).mean(axis=2, keepdims=True))[:, :, 0])
    return jnp.concatenate(levels, axis=2)

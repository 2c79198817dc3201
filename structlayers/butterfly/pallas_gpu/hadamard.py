"""Hadamard products by the kernels of butterflies, of which they are one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.checks import log2_exact
from structlayers._core.precision import PrecisionLike, accumulation_dtype
from structlayers.butterfly.convert import untie_butterfly
from structlayers.butterfly.pallas_gpu.apply import apply_factors


def hadamard_multiply(x: jax.Array, *, scale: float, precision: PrecisionLike = None) -> jax.Array:
    """All factors `[[1, 1], [1, -1]]` in one or two passes over memory.

    Args:
        x: `(*B, N)`; bfloat16, float32 or complex64.
        scale: factor of the result, a power of sqrt(2).
        precision: has no effect.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    del precision
    return _transform(x, scale)


def sorf_multiply(x: jax.Array, signs: jax.Array, *, precision: PrecisionLike = None) -> jax.Array:
    """`H D_K ... H D_1 x`, every diagonal part of the first factor that follows it.

    Args:
        x: `(*B, N)`; bfloat16, float32 or complex64.
        signs: `(K, N)` of the dtype of `x`.
        precision: has no effect.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    del precision
    size, wide = x.shape[-1], accumulation_dtype(x.dtype)
    factors = jnp.asarray(_factors(size, size**-0.5), wide)
    factors = untie_butterfly(factors[None, None])[0, 0]
    for diagonal in signs.astype(wide):
        # the block of columns 2p, 2p + 1 multiplies them by their entries of the diagonal first
        first = factors[0] * diagonal.reshape(-1, 1, 2)
        x = apply_factors(x, factors.at[0].set(first), True)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _transform(x: jax.Array, scale: float) -> jax.Array:
    factors = jnp.asarray(_factors(x.shape[-1], scale), accumulation_dtype(x.dtype))
    return apply_factors(x, factors, True)


# symmetric, and without weights that need a gradient
_transform.defvjp(
    lambda x, scale: (_transform(x, scale), None),
    lambda scale, _, dy: (_transform(dy, scale),),
)


@functools.cache
def _factors(size: int, scale: float) -> np.ndarray:
    """Tied factors `(N-1, 2, 2)`; each takes a power of two of the scale, the last what remains."""
    levels = log2_exact(size)
    stops = np.floor(math.log2(scale) * np.arange(levels + 1) / levels)
    shares = 2.0 ** np.diff(stops)
    shares[-1] *= scale / np.prod(shares)
    pair = np.array([[1.0, 1.0], [1.0, -1.0]])
    return np.concatenate([share * np.tile(pair, (2**k, 1, 1)) for k, share in enumerate(shares)])

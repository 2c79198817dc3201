"""The definition of the Hadamard products: one factor `[[1, 1], [1, -1]]` at a time."""

import jax
import jax.numpy as jnp

from structlayers._core.checks import log2_exact
from structlayers._core.precision import PrecisionLike, accumulation_dtype
from structlayers.butterfly.walsh.alternate import alternate


def hadamard_multiply(x: jax.Array, *, scale: float, precision: PrecisionLike = None) -> jax.Array:
    """Sums and differences of neighbours 1, 2, 4, ... apart, then the scale.

    Args:
        x: `(*B, N)`, N a power of two.
        scale: factor of the result.
        precision: not used: there is no matrix product.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    del precision
    dtype, size = x.dtype, x.shape[-1]
    x = x.astype(accumulation_dtype(dtype))
    for level in range(log2_exact(size)):
        stride = 2**level
        pairs = x.reshape(*x.shape[:-1], size // (2 * stride), 2, stride)
        upper, lower = pairs[..., 0, :], pairs[..., 1, :]
        x = jnp.stack([upper + lower, upper - lower], axis=-2).reshape(x.shape)
    return (x * jnp.asarray(scale, x.dtype)).astype(dtype)


def sorf_multiply(x: jax.Array, signs: jax.Array, *, precision: PrecisionLike = None) -> jax.Array:
    """`H D_K ... H D_1 x`, signs and transform in turn.

    Args:
        x: `(*B, N)`, N a power of two.
        signs: `(K, N)` of the dtype of `x`.
        precision: of the products.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    return alternate(hadamard_multiply, x, signs, precision)

"""Diagonals and Hadamard products in turn."""

from collections.abc import Callable

import jax

from structlayers._core.precision import PrecisionLike


def alternate(
    multiply: Callable[..., jax.Array], x: jax.Array, signs: jax.Array, precision: PrecisionLike
) -> jax.Array:
    """`H D_K ... H D_1 x` with the normalised products of an implementation.

    Args:
        multiply: its `hadamard_multiply`.
        x: `(*B, N)`.
        signs: `(K, N)` of the dtype of `x`.
        precision: of the products.

    Returns:
        `(*B, N)` of the dtype of `x`.
    """
    size = x.shape[-1]
    for diagonal in signs:
        x = x * diagonal.reshape((1,) * (x.ndim - 1) + (size,))
        x = multiply(x, scale=size**-0.5, precision=precision)
    return x

"""Matrix products of wide arrays, in bfloat16 where the data are."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from structlayers._core.partitioning import vary_alike

type Product = Callable[[str, jax.Array, jax.Array], jax.Array]


def bfloat16_product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The einsum of float32 arrays rounded to bfloat16, summed and returned in float32.

    Derivatives are products of the same kind. JAX's own rule would multiply float32 cotangents
    with bfloat16 operands, in float32, and round the results.

    Args:
        equation: every index of an operand is in the other one or in the result.
        a: float32.
        b: float32.

    Example:
        >>> bfloat16_product("ij,jk->ik", jnp.ones((1, 2)), jnp.full((2, 1), 1.001)).tolist()
        [[2.0]]
    """
    return _product(equation, *vary_alike((a, b)))  # so do the gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    half = jnp.bfloat16
    return jnp.einsum(equation, a.astype(half), b.astype(half), preferred_element_type=jnp.float32)


def _forward(
    equation: str, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(equation, a, b), (a, b)


def _backward(
    equation: str, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    a, b = operands
    return (
        bfloat16_product(f"{out},{right}->{left}", cotangent, b),
        bfloat16_product(f"{left},{out}->{right}", a, cotangent),
    )


_product.defvjp(_forward, _backward)


def product_for(dtype: DTypeLike, precision: jax.lax.Precision) -> Product:
    """The einsum for data of `dtype` that are held wide: bfloat16 data are multiplied as such.

    float16 is multiplied in float32: sums of keys times values leave its range.

    Example:
        >>> product_for("float32", jax.lax.Precision.HIGHEST)("i,i->", jnp.ones(3), jnp.ones(3))
        Array(3., dtype=float32)
    """
    if jnp.dtype(dtype) == jnp.bfloat16:
        return bfloat16_product
    return functools.partial(jnp.einsum, precision=precision)

"""Real numbers, or complex ones as two planes, in one algebra of tuples.

A value is ``(x,)`` or ``(real, imaginary)``; Pallas has no complex numbers.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

type Value = tuple[jax.Array, ...]


def to_planes(x: jax.Array) -> jax.Array:
    """Real and imaginary part on a new first axis; of length 1 for real arrays."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.stack([x.real, x.imag])
    return x[None]


def from_planes(planes: jax.Array) -> jax.Array:
    """The inverse of `to_planes`."""
    return planes[0] if planes.shape[0] == 1 else jax.lax.complex(planes[0], planes[1])


def product(
    a: Value, b: Value, multiply: Callable[[jax.Array, jax.Array], jax.Array] = jnp.multiply
) -> Value:
    """Product of two values; `multiply` is that of two planes, such as a matrix product."""
    if len(a) == 1:
        return (multiply(a[0], b[0]),)
    return (
        multiply(a[0], b[0]) - multiply(a[1], b[1]),
        multiply(a[0], b[1]) + multiply(a[1], b[0]),
    )


def total(values: Sequence[Value]) -> Value:
    """Sum of values."""
    result = values[0]
    for value in values[1:]:
        result = tuple(a + b for a, b in zip(result, value, strict=True))
    return result

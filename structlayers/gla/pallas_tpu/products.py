"""Matrix products and rotations inside a kernel, whose derivatives the compiler of TPUs knows.

JAX's own rules would transpose results; Mosaic takes transposed operands, so each of the three
forms has derivatives among the three.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

# A B, A B^T and A^T B: for each the contracted axes, and the products that are its derivatives
type Form = Literal["nn", "nt", "tn"]
_CONTRACTED: dict[Form, tuple[int, int]] = {"nn": (1, 0), "nt": (1, 1), "tn": (0, 0)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(form: Form, precision: lax.Precision | None, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of float32 matrices, accumulated in float32.

    Args:
        form: "nn" is `A B`, "nt" is `A B^T`, "tn" is `A^T B`.
        precision: of float32 operands; None rounds them to bfloat16.
        a: float32.
        b: float32.
    """
    if precision is None:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    left, right = _CONTRACTED[form]
    return lax.dot_general(
        a,
        b,
        (((left,), (right,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _product_forward(
    form: Form, precision: lax.Precision | None, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(form, precision, a, b), (a, b)


def _product_backward(
    form: Form,
    precision: lax.Precision | None,
    operands: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    a, b = operands
    if form == "nn":
        return product("nt", precision, cotangent, b), product("tn", precision, a, cotangent)
    if form == "nt":
        return product("nn", precision, cotangent, b), product("tn", precision, cotangent, a)
    return product("nt", precision, b, cotangent), product("nn", precision, a, cotangent)


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def rotate(shift: int, x: jax.Array) -> jax.Array:
    """Moves row i of `(C, D)` to row `(i + shift) mod C`, 0 < shift < C."""
    return pltpu.roll(x, shift, 0)


def _rotate_forward(shift: int, x: jax.Array) -> tuple[jax.Array, None]:
    return rotate(shift, x), None


def _rotate_backward(shift: int, residual: None, cotangent: jax.Array) -> tuple[jax.Array]:
    del residual
    return (rotate(cotangent.shape[0] - shift, cotangent),)


rotate.defvjp(_rotate_forward, _rotate_backward)

"""Products of linear layers for trainings under `jax.vmap`.

JAX's gradient of a kernel is a transposed product. XLA swaps the factors of a plain product for
that, but keeps the transposition where a product has batch axes, as it has under `jax.vmap`; then
the optimiser reads gradients against their layout and cannot write parameters in place.
"""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import lax

type Options = tuple[tuple[str, Any], ...]


def untransposed(network: nnx.Module) -> None:
    """Makes the gradients of the kernels of all `nnx.Linear` in a network products as they are.

    Args:
        network: changed in place; values stay what they are.
    """
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Linear):
            module.dot_general = _dot_general


def _dot_general(
    inputs: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """`lax.dot_general` as `nnx.Linear` calls it: `(..., d)` by `(d, h)`."""
    del dimension_numbers
    return _multiply(inputs, kernel, tuple(sorted(options.items())))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(inputs: jax.Array, kernel: jax.Array, options: Options) -> jax.Array:
    numbers = (((inputs.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(inputs, kernel, numbers, **dict(options))


def _forward(
    inputs: jax.Array, kernel: jax.Array, options: Options
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply(inputs, kernel, options), (inputs, kernel)


def _backward(
    options: Options, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = operands
    last, precision = inputs.ndim - 1, dict(options).get("precision")
    lead = tuple(range(last))

    def product(
        a: jax.Array, b: jax.Array, axes: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> jax.Array:
        return lax.dot_general(
            a, b, (axes, ((), ())), precision=precision, preferred_element_type=inputs.dtype
        )

    return product(cotangent, kernel, ((last,), (1,))), product(inputs, cotangent, (lead, lead))


_multiply.defvjp(_forward, _backward)

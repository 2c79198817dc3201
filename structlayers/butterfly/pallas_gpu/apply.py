"""The product of one butterfly with rows, differentiable to any order.

The gradient of the rows is the product with the transposed factors in the other direction: the
same kernel. That of the factors is summed up by kernels (`gradient`) or by XLA: through the
gradient of the dense matrix, or by computing the values between merged factors again. Residuals
are the inputs.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from structlayers._core.partitioning import partition_over_batch
from structlayers.butterfly.convert import untie_butterfly
from structlayers.butterfly.factors import merge_levels
from structlayers.butterfly.pallas_gpu import plans
from structlayers.butterfly.pallas_gpu.calls import (
    LAUNCH_FROM_ROWS,
    multiply,
    multiply_by_xla,
    multiply_real,
    with_batching,
)
from structlayers.butterfly.pallas_gpu.gradient import gradients
from structlayers.butterfly.pallas_gpu.weights import merged_factors

# Who makes the gradient of the factors in bfloat16, from LAUNCH_FROM_ROWS rows on. 16384 rows on
# one H200: through merged "groups" about 210 us at N = 1024 and 770 at 4096 (differences of whole
# calls); the product of "dense" alone takes 46 and 665. "kernel" is simulated and not timed: no
# size takes it until it is.
_GRADIENT_BY = {
    512: "dense",
    1024: "dense",
    2048: "dense",
    4096: "groups",
    8192: "groups",
    16384: "groups",
}
_FEW_ROWS_BY_DENSE_UP_TO = 2048


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def apply_factors(x: jax.Array, factors: jax.Array, increasing: bool) -> jax.Array:
    """Applies all factors of a butterfly to every vector, in one or two passes over memory.

    Args:
        x: ``(*B, N)``; bfloat16, float32 or complex64.
        factors: ``(M, N/2, 2, 2)``, or tied ``(N-1, 2, 2)``; float32 or complex64.
        increasing: whether factors of small stride come first.

    Returns:
        Array ``(*B, N)`` of the dtype of ``x``.
    """
    lead = x.shape[:-1]
    run = partition_over_batch(
        _apply_to_shard, batched=(True, False), num_batch_axes=max(len(lead), 1)
    )
    out = run(x if lead else x[None], factors, increasing=increasing)
    return out if lead else out[0]


def _apply_to_shard(x: jax.Array, factors: jax.Array, *, increasing: bool) -> jax.Array:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _kernel(increasing)(rows, factors).reshape(x.shape)


def _forward(
    x: jax.Array, factors: jax.Array, increasing: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return apply_factors(x, factors, increasing), (x, factors)


def _backward(
    increasing: bool, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, factors = residuals
    way = _gradient_by(x)
    if way == "kernel":
        return gradients(x, factors, dy, increasing)
    dx = apply_factors(dy, factors.swapaxes(-1, -2), not increasing)
    gradient = _gradient_by_dense if way == "dense" else _gradient_by_groups
    return dx, gradient(x, factors, dy, increasing)


def _gradient_by(x: jax.Array) -> str:
    size = x.shape[-1]
    if x.dtype != jnp.bfloat16:
        return "groups"
    if x.size // size < LAUNCH_FROM_ROWS and _GRADIENT_BY[size] == "kernel":
        return "dense" if size <= _FEW_ROWS_BY_DENSE_UP_TO else "groups"
    return _GRADIENT_BY[size]


def _gradient_by_groups(
    x: jax.Array, factors: jax.Array, dy: jax.Array, increasing: bool
) -> jax.Array:
    """Of the factors, through the portable product with its merged groups."""
    return jax.vjp(lambda factors: multiply_by_xla(x, factors, increasing), factors)[1](dy)[0]


def _gradient_by_dense(
    x: jax.Array, factors: jax.Array, dy: jax.Array, increasing: bool
) -> jax.Array:
    """Of the factors, through that of the dense matrix: one product of the tensor cores."""
    axes = tuple(range(x.ndim - 1))
    dense = jnp.tensordot(dy, x, (axes, axes), preferred_element_type=jnp.float32)

    def matrix(factors: jax.Array) -> jax.Array:
        levels = x.shape[-1].bit_length() - 1
        return merge_levels(factors[None, None], 0, 0, levels, increasing)[0, 0, 0]

    return jax.vjp(matrix, factors)[1](dense)[0]


apply_factors.defvjp(_forward, _backward)


@functools.cache
def _kernel(increasing: bool) -> Any:
    """The kernel of (rows, factors), with a rule for `jax.vmap`."""

    def run(x: jax.Array, factors: jax.Array) -> jax.Array:
        rows, size = x.shape
        if x.dtype == jnp.bfloat16:
            blocks = merged_factors(factors, plans.tensor_radices(size), increasing)
            return multiply(x, blocks, plans.tensor_plans(size, rows, increasing=increasing))
        untied = untie_butterfly(factors[None, None])[0, 0]
        for plan in plans.scalar_plans(size, rows, x.dtype.name, increasing=increasing):
            x = multiply_real(x, untied, plan)
        return x

    return with_batching(run, functools.partial(multiply_by_xla, increasing=increasing))

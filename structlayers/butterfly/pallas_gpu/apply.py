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

from structlayers._core.partitioning import partition_over_batch, vary_alike
from structlayers.butterfly.convert import untie_butterfly
from structlayers.butterfly.factors import merge_levels
from structlayers.butterfly.pallas_gpu import plans
from structlayers.butterfly.pallas_gpu.calls import (
    multiply,
    multiply_by_plan,
    multiply_by_xla,
    multiply_real,
    with_batching,
)
from structlayers.butterfly.pallas_gpu.gradient import gradients
from structlayers.butterfly.pallas_gpu.weights import merged_factors

# Who makes the gradient of the factors in bfloat16: the product of the dense matrix up to a size,
# above it kernels from a number of rows on, merged groups of XLA else. Device time in microseconds
# of the product and both gradients (* of the gradients alone), one H200, jax 0.11.2:
#
#      rows        512        1024       2048          4096          8192          16384
#             dense kern  dense kern  dense kern   XLA   kern    XLA   kern    XLA   kern
#      1024     32   30     41   43     75  102   *90   *101   *146   *140   *264   *241
#      2048     36   44     51   53     92  118  *157   *131   *233   *207
#      4096     40   48     55   62    126  150  *252   *198
#     16384     60   80    117  117    312  346  1006    707   1942   1317          2567
#
# Kernels at 512, 2048 and in the middle rows of 1024 before a change that took 4 us a launch off.
#
# At 64, 128 and 256, 16384 rows, dense takes 20, 26 and 40 us, all by the portable product 16, 25
# and 119; float32 through groups 25 at N = 64, against 30.
_GRADIENTS_BY_XLA_UP_TO = 128
_GRADIENT_BY_DENSE_UP_TO = 2048
_GRADIENT_BY_KERNEL_FROM_ROWS = {4096: 2048, 8192: 1024, 16384: 1024}


def apply_factors(x: jax.Array, factors: jax.Array, increasing: bool) -> jax.Array:
    """Applies all factors of a butterfly to every vector, in one or two passes over memory.

    Args:
        x: ``(*B, N)``; bfloat16, float32 or complex64.
        factors: ``(M, N/2, 2, 2)``, or tied ``(N-1, 2, 2)``; float32 or complex64.
        increasing: whether factors of small stride come first.

    Returns:
        Array ``(*B, N)`` of the dtype of ``x``.
    """
    return _apply(*vary_alike((x, factors)), increasing)  # so do the gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _apply(x: jax.Array, factors: jax.Array, increasing: bool) -> jax.Array:
    run = partition_over_batch(_apply_to_shard, batched=(True, False), num_batch_axes=x.ndim - 1)
    return run(x, factors, increasing=increasing)


def _apply_to_shard(x: jax.Array, factors: jax.Array, *, increasing: bool) -> jax.Array:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _kernel(increasing)(rows, factors).reshape(x.shape)


def _forward(
    x: jax.Array, factors: jax.Array, increasing: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _apply(x, factors, increasing), (x, factors)


def _backward(
    increasing: bool, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, factors = residuals
    size, rows = x.shape[-1], x.size // x.shape[-1]
    half = x.dtype == jnp.bfloat16
    if half and size <= _GRADIENTS_BY_XLA_UP_TO:
        by_xla = functools.partial(multiply_by_xla, increasing=increasing)
        return jax.vjp(by_xla, x, factors)[1](dy)
    if half and rows >= _GRADIENT_BY_KERNEL_FROM_ROWS.get(size, math.inf):
        return gradients(x, factors, dy, increasing)
    dx = _apply(dy, factors.swapaxes(-1, -2), not increasing)
    by_dense = half and size <= _GRADIENT_BY_DENSE_UP_TO
    gradient = _gradient_by_dense if by_dense else _gradient_by_groups
    return dx, gradient(x, factors, dy, increasing)


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


_apply.defvjp(_forward, _backward)


@functools.cache
def _kernel(increasing: bool) -> Any:
    """The kernel of (rows, factors), with a rule for `jax.vmap`."""

    def run(x: jax.Array, factors: jax.Array) -> jax.Array:
        size = x.shape[-1]
        values = _side_by_side(x, plans.side_by_side(size))
        if x.dtype == jnp.bfloat16:
            values = _by_tensor_cores(values, factors, size, increasing)
        else:
            untied = untie_butterfly(factors[None, None])[0, 0]
            dtype = x.dtype.name
            for plan in plans.scalar_plans(size, len(values), dtype, increasing=increasing):
                values = multiply_real(values, untied, plan)
        return values.reshape(-1, size)[: len(x)]

    return with_batching(run, functools.partial(multiply_by_xla, increasing=increasing))


def _side_by_side(x: jax.Array, count: int) -> jax.Array:
    """Rows of several vectors, zeros after the last one."""
    return jnp.pad(x, ((0, -len(x) % count), (0, 0))).reshape(-1, count * x.shape[-1])


def _by_tensor_cores(x: jax.Array, factors: jax.Array, size: int, increasing: bool) -> jax.Array:
    """The product in bfloat16 of rows that hold vectors of N = `size`."""
    if plans.merges_itself(size):
        tied = factors.ndim == 3
        plan = plans.unmerged_plan(size, len(x), increasing=increasing, tied=tied)
        return multiply_by_plan(x, factors, plan)
    blocks = merged_factors(factors, plans.tensor_radices(size), increasing)
    return multiply(x, blocks, plans.tensor_plans(size, len(x), increasing=increasing))

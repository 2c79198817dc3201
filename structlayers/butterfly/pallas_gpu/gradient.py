"""Both gradients of one butterfly with rows in bfloat16, by kernels; differentiable again.

The values before each part of the chain and the cotangents after it are products; from them a
launch for each merged factor sums up its gradient. Its own derivative is that of the same
gradients written for XLA.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch
from structlayers.butterfly.pallas_gpu import gradient_plans
from structlayers.butterfly.pallas_gpu.calls import (
    each_set,
    multiply,
    multiply_by_xla,
    sum_gradient,
)
from structlayers.butterfly.pallas_gpu.weights import merged_factors

type Gradients = tuple[jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gradients(x: jax.Array, factors: jax.Array, dy: jax.Array, increasing: bool) -> Gradients:
    """Gradients of the rows and of the factors of `apply_factors`.

    Args:
        x: ``(*B, N)``, bfloat16.
        factors: ``(M, N/2, 2, 2)``, or tied ``(N-1, 2, 2)``; float32.
        dy: ``(*B, N)``, bfloat16; the cotangent of the result.
        increasing: whether factors of small stride come first.

    Returns:
        Arrays like ``x`` and like ``factors``.
    """
    run = partition_over_batch(
        _of_shard,
        batched=(True, False, True),
        outputs=("batch", "sum"),
        num_batch_axes=x.ndim - 1,
    )
    return run(x, factors, dy, increasing=increasing)


def _of_shard(x: jax.Array, factors: jax.Array, dy: jax.Array, *, increasing: bool) -> Gradients:
    rows, size = math.prod(x.shape[:-1]), x.shape[-1]
    dx, dfactors = _kernels(increasing)(x.reshape(rows, size), factors, dy.reshape(rows, size))
    return dx.reshape(x.shape), dfactors


def _forward(x: jax.Array, factors: jax.Array, dy: jax.Array, increasing: bool) -> Any:
    return gradients(x, factors, dy, increasing), (x, factors, dy)


def _backward(increasing: bool, residuals: Any, cotangents: Gradients) -> Any:
    by_xla = functools.partial(_by_xla, increasing=increasing)
    return jax.vjp(by_xla, *residuals)[1](cotangents)


gradients.defvjp(_forward, _backward)


def _by_xla(x: jax.Array, factors: jax.Array, dy: jax.Array, *, increasing: bool) -> Gradients:
    product = functools.partial(multiply_by_xla, increasing=increasing)
    return jax.vjp(product, x, factors)[1](dy)


@functools.cache
def _kernels(increasing: bool) -> Any:
    """The kernels of (rows, factors, cotangents), with a rule for `jax.vmap`.

    Each set of rows has a gradient of its own, and takes its own launches where rows are many.
    """

    @custom_vmap
    def run(x: jax.Array, factors: jax.Array, dy: jax.Array) -> Gradients:
        return _by_kernels(x, factors, dy, increasing)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *arrays: jax.Array) -> Any:
        by_xla = functools.partial(_by_xla, increasing=increasing)
        return each_set(run, by_xla, size, mapped, arrays), (True, True)

    return run


def _by_kernels(x: jax.Array, factors: jax.Array, dy: jax.Array, increasing: bool) -> Gradients:
    rows, size = x.shape
    radices = gradient_plans.gradient_radices(size)
    blocks, pull = jax.vjp(lambda f: merged_factors(f, radices, increasing), factors)
    transposed = {stride: block.swapaxes(-1, -2) for stride, block in blocks.items()}
    parts = gradient_plans.gradient_parts(size, increasing=increasing)
    values, cotangents = [x], [dy]
    for part in parts[:-1]:
        plan = gradient_plans.product_plan(part, size, rows)
        values.append(multiply(values[-1], blocks, [plan]))
    for part in parts[::-1]:
        plan = gradient_plans.product_plan(part[::-1], size, rows)
        cotangents.append(multiply(cotangents[-1], transposed, [plan]))
    dx, *cotangents = cotangents[::-1]
    sums = {}
    for part, v, g in zip(parts, values, cotangents, strict=True):
        for plan in gradient_plans.sum_plans(part, size, rows):
            sums[plan.summed.stride] = sum_gradient(v, g, blocks, transposed, plan)
    return dx, pull(sums)[0]

"""The product of one butterfly with rows, differentiable to any order.

The gradient of the rows is the product with the transposed factors in the other direction: the
same kernel. That of the factors is left to XLA, which computes the values between merged factors
again. Residuals are the inputs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch
from structlayers.butterfly import xla
from structlayers.butterfly.factors import merge_levels
from structlayers.butterfly.pallas_gpu import plans, scalar_program, tensor_program
from structlayers.butterfly.pallas_gpu.weights import fragments


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def apply_factors(x: jax.Array, factors: jax.Array, increasing: bool) -> jax.Array:
    """Applies all factors of a butterfly to every vector, in one pass over memory.

    Args:
        x: ``(*B, N)``; bfloat16, float32 or complex64.
        factors: ``(M, N/2, 2, 2)``, or tied ``(N-1, 2, 2)``; float32 or complex64.
        increasing: whether factors of small stride come first.

    Returns:
        Array ``(*B, N)`` of the dtype of ``x``.
    """
    if x.dtype == jnp.bfloat16:
        blocks = _merged(factors, x.shape[-1], increasing)
        weights = fragments(blocks if increasing else blocks[::-1])
    else:
        weights = _untied(factors, x.shape[-1])
    lead = x.shape[:-1]
    run = partition_over_batch(
        _apply_to_shard, batched=(True, False), num_batch_axes=max(len(lead), 1)
    )
    out = run(x if lead else x[None], weights, increasing=increasing)
    return out if lead else out[0]


def _apply_to_shard(x: jax.Array, weights: jax.Array, *, increasing: bool) -> jax.Array:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _kernel(increasing)(rows, weights).reshape(x.shape)


def _forward(
    x: jax.Array, factors: jax.Array, increasing: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return apply_factors(x, factors, increasing), (x, factors)


def _backward(
    increasing: bool, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, factors = residuals
    dx = apply_factors(dy, factors.swapaxes(-1, -2), not increasing)

    def multiply(factors: jax.Array) -> jax.Array:
        twiddle = factors[None, None]
        return xla.butterfly_multiply(x, twiddle, None, increasing_stride=increasing)

    return dx, jax.vjp(multiply, factors)[1](dy)[0]


apply_factors.defvjp(_forward, _backward)


def _merged(factors: jax.Array, size: int, increasing: bool) -> list[jax.Array]:
    """Factors ``(N/(R s), s, R, R)`` of the kernel's radices, by increasing stride."""
    blocks, start = [], 0
    for radix in plans.tensor_radices(size):
        stop = start + radix.bit_length() - 1
        block = merge_levels(factors[None, None], 0, start, stop, increasing)[0]
        blocks.append(jnp.broadcast_to(block, (size >> stop, *block.shape[1:])))
        start = stop
    return blocks


def _untied(factors: jax.Array, size: int) -> jax.Array:
    """Factors ``(M, N/2, 2, 2)`` in the order of their strides."""
    if factors.ndim == 4:
        return factors
    levels = []
    for level in range(size.bit_length() - 1):
        stride = 2**level
        shared = factors[stride - 1 : 2 * stride - 1]
        levels.append(jnp.tile(shared, (size // (2 * stride), 1, 1)))
    return jnp.stack(levels)


@functools.cache
def _kernel(increasing: bool) -> Any:
    """The kernel of (rows, weights), with a rule for `jax.vmap`: more rows, or one call each."""

    @custom_vmap
    def run(x: jax.Array, weights: jax.Array) -> jax.Array:
        rows, size = x.shape
        if x.dtype == jnp.bfloat16:
            plan = plans.tensor_plan(size, rows, increasing=increasing)
            program, grid = tensor_program.program(plan), (plan.clusters, plan.cluster_size)
        else:
            plan = plans.scalar_plan(size, rows, x.dtype.name, increasing=increasing)
            program, grid = scalar_program.program(plan), (plan.blocks, 1)
        return _launch(program, x, weights, plan, grid)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], x: jax.Array, weights: jax.Array) -> Any:
        x_mapped, weights_mapped = mapped
        if not weights_mapped:
            return run(x.reshape(-1, x.shape[-1]), weights).reshape(x.shape), True
        x = x if x_mapped else jnp.broadcast_to(x, (size, *x.shape))
        return jax.lax.map(lambda pair: run(*pair), (x, weights)), True

    return run


def _launch(
    program: Any, x: jax.Array, weights: jax.Array, plan: Any, grid: tuple[int, int]
) -> jax.Array:
    from structlayers._core.simt.mosaic import launch

    (y,) = launch(
        program,
        (x, weights),
        (jax.ShapeDtypeStruct(x.shape, x.dtype),),
        clusters=grid[0],
        cluster_size=grid[1],
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name=f"butterfly_{plan.size}_{x.dtype.name}",
    )
    return y

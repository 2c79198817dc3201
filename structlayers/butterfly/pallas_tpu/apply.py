"""The product of a chain with a batch, differentiable to any order.

Residuals are the inputs: the kernel of the gradients computes the values between the factors
again. Its own derivative is that of the same gradients written for XLA.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from structlayers._core.pallas import (
    tpu_interpreter,
    tpu_kernels_can_be_partitioned,
    tpu_vmem_bytes,
)
from structlayers._core.partitioning import partition_over_batch
from structlayers.butterfly.pallas_tpu import batching
from structlayers.butterfly.pallas_tpu.chain import Chain, Factor
from structlayers.butterfly.pallas_tpu.kernels import Settings
from structlayers.butterfly.pallas_tpu.memory import LOWEST_TILE
from structlayers.butterfly.pallas_tpu.values import from_planes, to_planes
from structlayers.butterfly.xla import apply_block

type Blocks = tuple[jax.Array, ...]


def apply_chain(x: jax.Array, blocks: Blocks, precision: lax.Precision) -> jax.Array:
    """Applies factors in block form to every vector of a batch, in one pass over memory.

    Args:
        x: ``(*B, S N)``, or ``(*B, N)`` for one input to all stacks; not empty.
        blocks: ``(S, P, s, R, R)`` in the order of application, s 1 or a multiple of 128; float32,
            complex64 for complex ``x``.
        precision: of float32 matrix products.

    Returns:
        Array ``(*B, S N)`` of the dtype of ``x``.
    """
    settings = Settings(precision, tpu_vmem_bytes(), tpu_interpreter())
    if not tpu_kernels_can_be_partitioned():
        return _apply_to_shard(x, blocks, settings=settings)
    run = partition_over_batch(_apply_to_shard, batched=(True, False), num_batch_axes=x.ndim - 1)
    return run(x, blocks, settings=settings)


def _apply_to_shard(x: jax.Array, blocks: Blocks, *, settings: Settings) -> jax.Array:
    lead, width = x.shape[:-1], x.shape[-1]
    batch = math.prod(lead)
    rows = jnp.pad(x.reshape(batch, width), ((0, max(0, LOWEST_TILE - batch)), (0, 0)))
    return _multiply(rows, blocks, settings)[:batch].reshape(*lead, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(x: jax.Array, blocks: Blocks, settings: Settings) -> jax.Array:
    chain = chain_of(blocks)
    planes = to_planes(x)
    weights = _weights(chain, blocks, planes.dtype)
    return from_planes(batching.forward(chain, settings)(planes, weights))


def _multiply_forward(
    x: jax.Array, blocks: Blocks, settings: Settings
) -> tuple[jax.Array, tuple[jax.Array, Blocks]]:
    return _multiply(x, blocks, settings), (x, blocks)


def _multiply_backward(
    settings: Settings, residuals: tuple[jax.Array, Blocks], dy: jax.Array
) -> tuple[jax.Array, Blocks]:
    return _gradients(*residuals, dy, settings)


_multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gradients(
    x: jax.Array, blocks: Blocks, dy: jax.Array, settings: Settings
) -> tuple[jax.Array, Blocks]:
    chain = chain_of(blocks)
    planes = to_planes(x)
    weights = _weights(chain, blocks, planes.dtype)
    pulled, sums = batching.backward(chain, settings)(planes, to_planes(dy), weights)
    dx = from_planes(pulled)
    if dx.shape != x.shape:  # one input to all stacks
        wide = jnp.promote_types(x.dtype, jnp.float32)
        dx = dx.reshape(len(x), -1, chain.size).astype(wide).sum(1).astype(x.dtype)
    return dx, tuple(
        _from_weights(factor, weights, block.dtype)
        for factor, weights, block in zip(chain.factors, sums, blocks, strict=True)
    )


def _gradients_forward(
    x: jax.Array, blocks: Blocks, dy: jax.Array, settings: Settings
) -> tuple[tuple[jax.Array, Blocks], tuple[jax.Array, Blocks, jax.Array]]:
    return _gradients(x, blocks, dy, settings), (x, blocks, dy)


def _gradients_backward(
    settings: Settings,
    residuals: tuple[jax.Array, Blocks, jax.Array],
    cotangents: tuple[jax.Array, Blocks],
) -> tuple[jax.Array, Blocks, jax.Array]:
    _, pull = jax.vjp(functools.partial(_gradients_by_xla, settings=settings), *residuals)
    return pull(cotangents)


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _gradients_by_xla(
    x: jax.Array, blocks: Blocks, dy: jax.Array, settings: Settings
) -> tuple[jax.Array, Blocks]:
    size = chain_of(blocks).size

    def multiply(x: jax.Array, blocks: Blocks) -> jax.Array:
        values = x.reshape(len(x), -1, size)
        for block in blocks:
            values = apply_block(values, block, settings.precision)
        return values.reshape(len(x), -1)

    return jax.vjp(multiply, x, blocks)[1](dy)


def chain_of(blocks: Sequence[jax.Array]) -> Chain:
    """The chain of factors in block form, from their shapes."""
    factors = tuple(Factor(block.shape[1], block.shape[2], block.shape[3]) for block in blocks)
    # all factors together mix every index once, or more often where blocks are joined
    return Chain(max(factor.stride * factor.radix for factor in factors), factors)


def _weights(chain: Chain, blocks: Blocks, dtype: jnp.dtype) -> Blocks:
    """Blocks as the kernels read them: matrices in the dtype of the data, the rest in float32."""
    weights = []
    for factor, block in zip(chain.factors, blocks, strict=True):
        if factor.mixes_lanes:
            weights.append(to_planes(block[:, :, 0].swapaxes(-1, -2)).astype(dtype))
        else:
            entries = block.transpose(0, 1, 3, 4, 2)
            entries = entries.reshape(*block.shape[:2], factor.radix**2, factor.stride)
            weights.append(to_planes(entries).astype(jnp.float32))
    return tuple(weights)


def _from_weights(factor: Factor, weights: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A gradient back in block form."""
    entries = from_planes(weights)
    if factor.mixes_lanes:
        return entries.swapaxes(-1, -2)[:, :, None].astype(dtype)
    stacks, copies = entries.shape[:2]
    entries = entries.reshape(stacks, copies, factor.radix, factor.radix, factor.stride)
    return entries.transpose(0, 1, 4, 2, 3).astype(dtype)

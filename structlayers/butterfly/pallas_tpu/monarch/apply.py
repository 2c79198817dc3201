"""The product of a Monarch matrix with a batch, differentiable to any order.

Residuals are the inputs: the kernel of the gradients computes the values between the factors
again. Its own derivative is that of the same gradients written for XLA.
"""

import functools
import math

import jax
import jax.numpy as jnp

from structlayers._core.operands import pad_features
from structlayers._core.pallas import (
    tpu_interpreter,
    tpu_kernels_can_be_partitioned,
    tpu_matrix_width,
    tpu_vmem_bytes,
)
from structlayers._core.partitioning import partition_over_batch
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.monarch import xla
from structlayers.butterfly.monarch.shapes import monarch_sizes
from structlayers.butterfly.pallas_tpu.memory import LOWEST_TILE
from structlayers.butterfly.pallas_tpu.monarch import batching
from structlayers.butterfly.pallas_tpu.monarch.groups import find_groups
from structlayers.butterfly.pallas_tpu.monarch.kernels import Settings
from structlayers.butterfly.pallas_tpu.monarch.weights import pack

type Gradients = tuple[jax.Array, jax.Array, jax.Array]


def monarch_multiply(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiplies by a Monarch matrix in one pass over memory.

    Args:
        x: real `(*B, n)`, n at most `k p`.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`.
        out_features: number of outputs kept.
        precision: of the products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    sizes = monarch_sizes(blocks1, blocks2)
    if 0 in x.shape:
        out = jnp.zeros((*x.shape[:-1], sizes.out_features), x.dtype)
        return out[..., :out_features]
    settings = Settings(
        find_groups(sizes, tpu_matrix_width()),
        canonicalize_precision(precision),
        tpu_vmem_bytes(),
        tpu_interpreter(),
    )
    x = pad_features(x, sizes.in_features)
    run = _apply_to_shard
    if tpu_kernels_can_be_partitioned():
        run = partition_over_batch(run, batched=(True, False, False), num_batch_axes=x.ndim - 1)
    return run(x, blocks1, blocks2, settings=settings)[..., :out_features]


def _apply_to_shard(
    x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, *, settings: Settings
) -> jax.Array:
    lead, width = x.shape[:-1], x.shape[-1]
    batch = math.prod(lead)
    rows = jnp.pad(x.reshape(batch, width), ((0, max(0, LOWEST_TILE - batch)), (0, 0)))
    return _multiply(rows, blocks1, blocks2, settings)[:batch].reshape(*lead, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _multiply(
    x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, settings: Settings
) -> jax.Array:
    weights = pack(settings.groups, blocks1.astype(x.dtype), blocks2.astype(x.dtype))
    return batching.forward(settings)(x, *weights)


def _multiply_forward(
    x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, settings: Settings
) -> tuple[jax.Array, Gradients]:
    return _multiply(x, blocks1, blocks2, settings), (x, blocks1, blocks2)


def _multiply_backward(settings: Settings, residuals: Gradients, dy: jax.Array) -> Gradients:
    return _gradients(*residuals, dy, settings)


_multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _gradients(
    x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, dy: jax.Array, settings: Settings
) -> Gradients:
    narrow = (blocks1.astype(x.dtype), blocks2.astype(x.dtype))
    weights = pack(settings.groups, *narrow)
    dx, *sums = batching.backward(settings)(x, dy, *weights)
    wide = [jax.ShapeDtypeStruct(blocks.shape, jnp.float32) for blocks in narrow]
    unpack = jax.linear_transpose(functools.partial(pack, settings.groups), *wide)
    dblocks1, dblocks2 = unpack(tuple(sums))
    return dx, dblocks1.astype(blocks1.dtype), dblocks2.astype(blocks2.dtype)


def _gradients_forward(
    x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, dy: jax.Array, settings: Settings
) -> tuple[Gradients, tuple[jax.Array, ...]]:
    return _gradients(x, blocks1, blocks2, dy, settings), (x, blocks1, blocks2, dy)


def _gradients_backward(
    settings: Settings, residuals: tuple[jax.Array, ...], cotangents: Gradients
) -> tuple[jax.Array, ...]:
    def gradients(x: jax.Array, blocks1: jax.Array, blocks2: jax.Array, dy: jax.Array) -> Gradients:
        run = functools.partial(xla.monarch_multiply, precision=settings.precision)
        return jax.vjp(run, x, blocks1, blocks2)[1](dy)

    return jax.vjp(gradients, *residuals)[1](cotangents)


_gradients.defvjp(_gradients_forward, _gradients_backward)

"""`monarch_multiply` of square blocks on Hopper GPUs: a product of two merged factors, one pass.

With blocks ``(k, p, p)`` and ``(p, k, k)`` the first factor of a Monarch matrix is one of radix p
and stride 1, the second one of radix k and stride p: what the bfloat16 kernel multiplies by.
"""

import functools
import math
from typing import Any

import jax

from structlayers._core.operands import pad_features
from structlayers._core.partitioning import partition_over_batch, vary_alike
from structlayers._core.precision import PrecisionLike
from structlayers.butterfly.pallas_gpu import plans
from structlayers.butterfly.pallas_gpu.calls import multiply, with_batching
from structlayers.butterfly.xla import apply_block


def monarch_multiply(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Both factors in one pass over memory.

    Args:
        x: ``(*B, n)``, n at most ``k p``; bfloat16.
        blocks1: ``(k, p, p)``.
        blocks2: ``(p, k, k)``.
        out_features: Number of outputs kept.
        precision: Has no effect.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    del precision
    k, p = blocks1.shape[:2]
    operands = vary_alike((pad_features(x, k * p), blocks1[:, None], blocks2[None]))
    y = _apply(*operands, True)  # gradients vary as they do
    return y[..., :out_features]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _apply(x: jax.Array, low: jax.Array, high: jax.Array, increasing: bool) -> jax.Array:
    """Two factors, low ``(k, 1, p, p)`` first where increasing, high ``(1, p, k, k)``."""
    run = partition_over_batch(
        _apply_to_shard, batched=(True, False, False), num_batch_axes=x.ndim - 1
    )
    return run(x, low, high, increasing=increasing)


def _apply_to_shard(x: jax.Array, low: jax.Array, high: jax.Array, *, increasing: bool) -> Any:
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _kernel(increasing)(rows, low, high).reshape(x.shape)


def _forward(x: jax.Array, low: jax.Array, high: jax.Array, increasing: bool) -> Any:
    return _apply(x, low, high, increasing), (x, low, high)


def _backward(increasing: bool, residuals: Any, dy: jax.Array) -> Any:
    x, low, high = residuals
    dx = _apply(dy, low.swapaxes(-1, -2), high.swapaxes(-1, -2), not increasing)
    _, pull = jax.vjp(lambda low, high: _by_xla(x, low, high, increasing), low, high)
    return dx, *pull(dy)


_apply.defvjp(_forward, _backward)


def _by_xla(x: jax.Array, low: jax.Array, high: jax.Array, increasing: bool) -> jax.Array:
    x = x[..., None, :]
    for blocks in (low, high) if increasing else (high, low):
        x = apply_block(x, blocks[None], None)
    return x[..., 0, :]


@functools.cache
def _kernel(increasing: bool) -> Any:
    def run(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        radices = low.shape[-1], high.shape[-1]
        plan = plans.two_factor_plan(radices, len(x), increasing=increasing)
        return multiply(x, {1: low, radices[0]: high}, [plan])

    return with_batching(run, functools.partial(_by_xla, increasing=increasing))

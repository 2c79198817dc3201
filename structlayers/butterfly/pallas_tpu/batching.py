"""`jax.vmap` of the kernels: more rows where the weights are shared, else more stacks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from structlayers.butterfly.pallas_tpu import kernels
from structlayers.butterfly.pallas_tpu.chain import Chain
from structlayers.butterfly.pallas_tpu.kernels import Settings

type Weights = tuple[jax.Array, ...]


@functools.lru_cache(maxsize=256)
def forward(chain: Chain, settings: Settings) -> Any:
    """`kernels.forward` of (x, weights), with a rule for `jax.vmap`."""

    @custom_vmap
    def run(x: jax.Array, weights: Weights) -> jax.Array:
        return kernels.forward(x, weights, chain, settings)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], x: jax.Array, weights: Weights) -> Any:
        x_mapped, weights_mapped = mapped
        if not any(weights_mapped):
            out = run(_rows(x), weights)
            return _split_rows(out, size), True
        weights = _stacked(weights, weights_mapped, size)
        out = run(_columns(x, x_mapped, size, weights, chain), weights)
        return _split_columns(out, size), True

    return run


@functools.lru_cache(maxsize=256)
def backward(chain: Chain, settings: Settings) -> Any:
    """`kernels.backward` of (x, dy, weights), with a rule for `jax.vmap`."""

    @custom_vmap
    def run(x: jax.Array, dy: jax.Array, weights: Weights) -> tuple[jax.Array, Weights]:
        return kernels.backward(x, dy, weights, chain, settings)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], x: jax.Array, dy: jax.Array, weights: Weights) -> Any:
        x_mapped, dy_mapped, weights_mapped = mapped
        weights = _stacked(weights, weights_mapped, size)
        x = _columns(x, x_mapped, size, weights, chain)
        dx, sums = run(x, _columns(dy, dy_mapped, size, weights, chain), weights)
        split = tuple(
            jnp.moveaxis(w.reshape(w.shape[0], size, -1, *w.shape[2:]), 1, 0) for w in sums
        )
        return (_split_columns(dx, size), split), (True, (True,) * len(split))

    return run


def _rows(x: jax.Array) -> jax.Array:
    """``(V, planes, B, W)`` to ``(planes, V B, W)``."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])


def _split_rows(x: jax.Array, size: int) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0], size, -1, x.shape[-1]), 1, 0)


def _stacked(weights: Weights, mapped: Sequence[bool], size: int) -> Weights:
    """Weights ``(V, planes, S, ...)``, or without V, as ``(planes, V S, ...)``."""
    stacked = []
    for w, is_mapped in zip(weights, mapped, strict=True):
        w = w if is_mapped else jnp.broadcast_to(w, (size, *w.shape))
        stacked.append(jnp.moveaxis(w, 0, 1).reshape(w.shape[1], -1, *w.shape[3:]))
    return tuple(stacked)


def _columns(x: jax.Array, mapped: bool, size: int, weights: Weights, chain: Chain) -> jax.Array:
    """``(V, planes, B, W)``, or without V, as ``(planes, B, V S N)``."""
    x = x if mapped else jnp.broadcast_to(x, (size, *x.shape))
    stacks = weights[0].shape[1] // size
    x = x.reshape(*x.shape[:-1], -1, chain.size)
    x = jnp.broadcast_to(x, (*x.shape[:-2], stacks, chain.size))  # V planes B S N
    x = x.transpose(1, 2, 0, 3, 4)
    return x.reshape(*x.shape[:2], -1)


def _split_columns(x: jax.Array, size: int) -> jax.Array:
    return jnp.moveaxis(x.reshape(*x.shape[:2], size, -1), 2, 0)

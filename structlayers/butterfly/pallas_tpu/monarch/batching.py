"""`jax.vmap` of the kernels: more rows where matrices are shared, else one call after another."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from structlayers._core.batching import map_calls
from structlayers.butterfly.pallas_tpu.monarch import kernels
from structlayers.butterfly.pallas_tpu.monarch.kernels import Settings


@functools.lru_cache(maxsize=256)
def forward(settings: Settings) -> Any:
    """`kernels.forward` of (x, first, second), with a rule for `jax.vmap`."""

    @custom_vmap
    def run(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return kernels.forward(x, first, second, settings)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *operands: jax.Array) -> tuple[jax.Array, bool]:
        if mapped[1] or mapped[2]:
            return map_calls(run, size, mapped, operands), True
        x, first, second = operands
        out = run(x.reshape(-1, x.shape[-1]), first, second)
        return out.reshape(size, -1, out.shape[-1]), True

    return run


@functools.lru_cache(maxsize=256)
def backward(settings: Settings) -> Any:
    """`kernels.backward` of (x, dy, first, second), with a rule for `jax.vmap`."""

    @custom_vmap
    def run(
        x: jax.Array, dy: jax.Array, first: jax.Array, second: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        dx, dfirst, dsecond = kernels.backward(x, dy, first, second, settings)
        return dx, dfirst, dsecond

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *operands: jax.Array) -> Any:
        return map_calls(run, size, mapped, operands), (True, True, True)

    return run

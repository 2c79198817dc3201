"""Gated linear attention by the kernels, differentiable once in reverse mode.

Heads lie side by side in the lanes, so that arrays `(B, T, H, K)` are read where they are if K is a
multiple of 128, and padded to it otherwise. Residuals are the inputs and the states before every
step of the kernels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from structlayers._core.pallas import (
    tpu_interpreter,
    tpu_kernels_can_be_partitioned,
    tpu_vmem_bytes,
)
from structlayers._core.partitioning import partition_over_batch
from structlayers.gla.gates import with_resets
from structlayers.gla.packing import Packing
from structlayers.gla.pallas_tpu import kernels
from structlayers.gla.pallas_tpu.kernels import Inputs, Settings
from structlayers.gla.pallas_tpu.memory import padded, plan

# Added to a gate it leaves no weight; finite, because it meets zeros.
_RESET = -1e30


def gated_linear_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    initial_state: jax.Array | None,
    resets: jax.Array | None,
    packing: Packing | None,
    *,
    scale: float,
    chunk_size: int,
    precision: lax.Precision,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence in the reference, for what `support.check` lets pass.

    Args:
        q: `(*B, T, H, K)`, float32 or bfloat16.
        k: `(*B, T, G, K)`.
        v: `(*B, T, G, V)`.
        log_gate: float32 `(*B, T, G, K)` or `(*B, T, G, 1)`, axes of 1 are broadcast; or None.
        log_value_gate: None.
        initial_state: float32 `(*B, G, K, V)`, None is zero.
        resets: bool `(*B, T)`, where a sequence begins; or None.
        packing: None.
        scale: of the outputs.
        chunk_size: tokens of a chunk; 16 to 128 are used.
        precision: of float32 products.

    Returns:
        o `(*B, T, H, V)` in the dtype of q, and the final states, float32 `(*B, G, K, V)`.
    """
    del log_value_gate, packing
    *lead, time, groups, key = k.shape
    value, shared = v.shape[-1], q.shape[-2] // groups
    vmem = tpu_vmem_bytes()
    layout = plan(time, shared, key, value, q.dtype.itemsize, chunk_size, vmem)
    settings = Settings(time, groups, shared, layout, scale, precision, vmem, tpu_interpreter())
    if log_gate is None or log_gate.shape[-1] == 1:
        log_gate, resets = with_resets(log_gate, resets), None
        log_gate = jnp.zeros((1, 1, 1), jnp.float32) if log_gate is None else log_gate
    log_gate = jnp.broadcast_to(log_gate, (*k.shape[:-1], log_gate.shape[-1]))
    if initial_state is None:
        initial_state = jnp.zeros((*lead, groups, key, value), jnp.float32)
    args = (q, k, v, log_gate, resets, initial_state)
    if not tpu_kernels_can_be_partitioned():
        return _attend_on_shard(*args, settings=settings)
    if not lead:
        args = jax.tree.map(lambda x: x[None], args)
    run = partition_over_batch(
        _attend_on_shard, batched=(True,) * len(args), num_batch_axes=max(len(lead), 1)
    )
    out, final = run(*args, settings=settings)
    return (out, final) if lead else (out[0], final[0])


def _attend_on_shard(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array,
    resets: jax.Array | None,
    state: jax.Array,
    *,
    settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    *lead, _, key, value = state.shape
    heads = q.shape[-2]
    q, k, v, log_gate, state = (
        x.reshape(-1, *x.shape[len(lead) :]) for x in (q, k, v, log_gate, state)
    )
    scalar = log_gate.shape[-1] == 1
    pads = [(0, 0), (0, 0), (0, padded(value) - value), (0, padded(key) - key)]
    out, final = _attend(
        Inputs(
            *(_lanes(x) for x in (q, k, v)),
            _in_chunks(jnp.swapaxes(log_gate[..., 0], 1, 2), settings)
            if scalar
            else _lanes(log_gate),
            None if resets is None else _reset_rows(resets, settings),
            jnp.pad(jnp.swapaxes(state, -1, -2), pads),
        ),
        settings,
    )
    out = out.reshape(*out.shape[:-1], heads, -1)[..., :value]
    final = jnp.swapaxes(final[..., :value, :key], -1, -2)
    return out.reshape(*lead, *out.shape[1:]), final.reshape(*lead, *final.shape[1:])


def _lanes(x: jax.Array) -> jax.Array:
    """`(B, T, H, D)` with heads of whole registers beside each other: `(B, T, H D)`."""
    width = x.shape[-1]
    x = jnp.pad(x, [(0, 0)] * 3 + [(0, padded(width) - width)])
    return x.reshape(*x.shape[:2], -1)


def _in_chunks(x: jax.Array, settings: Settings) -> jax.Array:
    """`(B, G, T)` to `(B, G, steps, chunks, C)`, zero beyond T."""
    layout = settings.layout
    padding = layout.steps * layout.tokens - x.shape[-1]
    x = jnp.pad(x, [(0, 0), (0, 0), (0, padding)])
    return x.reshape(*x.shape[:2], layout.steps, layout.chunks, layout.chunk)


def _reset_rows(resets: jax.Array, settings: Settings) -> jax.Array:
    rows = jnp.where(resets, jnp.float32(_RESET), 0.0).reshape(-1, 1, resets.shape[-1])
    return _in_chunks(rows, settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(x: Inputs, settings: Settings) -> tuple[jax.Array, jax.Array]:
    return _batchable(settings, "values")(x)


def _attend_forward(x: Inputs, settings: Settings) -> Any:
    out, final, kept = _batchable(settings, "values and states")(x)
    return (out, final), (x, kept)


def _attend_backward(settings: Settings, residuals: Any, cotangents: Any) -> tuple[Inputs]:
    x, kept = residuals
    gradients = _batchable(settings, "gradients")(x, kept, *cotangents)
    if x.resets is not None:
        gradients = gradients._replace(resets=jnp.zeros_like(x.resets))
    return (gradients,)


_attend.defvjp(_attend_forward, _attend_backward)


@functools.lru_cache(maxsize=256)
def _batchable(settings: Settings, what: str) -> Callable[..., Any]:
    """A kernel with a rule for `jax.vmap`: one more axis of the batch."""
    calls = {
        "values": functools.partial(kernels.forward, settings=settings, keeps=False),
        "values and states": functools.partial(kernels.forward, settings=settings, keeps=True),
        "gradients": functools.partial(kernels.backward, settings=settings),
    }
    run = custom_vmap(calls[what])

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        merged = [
            (x if on else jnp.broadcast_to(x, (size, *x.shape)))
            for x, on in zip(leaves, jax.tree.leaves(tuple(mapped)), strict=True)
        ]
        merged = [x.reshape(-1, *x.shape[2:]) for x in merged]
        out = run(*jax.tree.unflatten(tree, merged))
        out = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda x: True, out)

    return run

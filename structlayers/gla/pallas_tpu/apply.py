"""Gated linear attention by the kernels, differentiable to any order in reverse mode.

Heads lie side by side in the lanes, so that arrays `(B, T, H, K)` are read where they are if K is a
multiple of 128, and padded to it otherwise. Residuals are the inputs and the states before every
step of the kernels. The derivative of the backward pass is that of the same gradients by XLA.
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
from structlayers.gla.xla import chunks

# q, k, v, log_gate with all axes, what resets add to gates of K channels `(*B, T)`, state
type Args = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array]

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
        chunk_size: from 64 on, chunks of 128 tokens are taken; 16 at least.
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
    if resets is not None:
        resets = jnp.where(resets, jnp.float32(_RESET), 0.0)
    if initial_state is None:
        initial_state = jnp.zeros((*lead, groups, key, value), jnp.float32)
    args: Args = (q, k, v, log_gate, resets, initial_state)
    if lead:
        return _attend(args, settings)
    out, final = _attend(jax.tree.map(lambda x: x[None], args), settings)
    return out[0], final[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(args: Args, settings: Settings) -> tuple[jax.Array, jax.Array]:
    return _on_shards(_values, args, settings=settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend_and_keep(args: Args, settings: Settings) -> tuple[jax.Array, ...]:
    """With the states as well, which only `_pull_back` reads: they have no gradient."""
    return _on_shards(_values_and_states, args, settings=settings)


def _keep_forward(args: Args, settings: Settings) -> Any:
    out, final, kept = _attend_and_keep(args, settings)
    return (out, final, kept), (args, kept)


def _keep_backward(settings: Settings, residuals: Any, cotangents: Any) -> tuple[Args]:
    args, kept = residuals
    return (_pull_back(args, kept, cotangents[:2], settings),)


_attend_and_keep.defvjp(_keep_forward, _keep_backward)


def _attend_forward(args: Args, settings: Settings) -> Any:
    out, final, kept = _attend_and_keep(args, settings)
    return (out, final), (args, kept)


def _attend_backward(settings: Settings, residuals: Any, cotangents: Any) -> tuple[Args]:
    return (_pull_back(*residuals, cotangents, settings),)


_attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pull_back(args: Args, kept: jax.Array, cotangents: Any, settings: Settings) -> Args:
    return _on_shards(_gradients, args, kept, cotangents, settings=settings)


def _pull_back_forward(args: Args, kept: jax.Array, cotangents: Any, settings: Settings) -> Any:
    return _pull_back(args, kept, cotangents, settings), (args, kept, cotangents)


def _pull_back_backward(settings: Settings, residuals: Any, seconds: Args) -> tuple[Any, ...]:
    args, kept, cotangents = residuals
    _, pull = jax.vjp(functools.partial(_gradients_by_xla, settings=settings), args, cotangents)
    dargs, dcotangents = pull(seconds)
    return dargs, jnp.zeros_like(kept), dcotangents


_pull_back.defvjp(_pull_back_forward, _pull_back_backward)


def _gradients_by_xla(args: Args, cotangents: Any, *, settings: Settings) -> Args:
    """The gradients in a form that can be differentiated again."""

    def attend(args: Args) -> tuple[jax.Array, jax.Array]:
        q, k, v, log_gate, resets, state = args
        return chunks.gated_linear_attention(
            q,
            k,
            v,
            log_gate,
            None,
            state,
            None if resets is None else resets < 0,
            None,
            scale=settings.scale,
            chunk_size=settings.layout.chunk,
            precision=settings.precision,
        )

    return jax.vjp(attend, args)[1](cotangents)[0]


def _on_shards(fn: Callable[..., Any], args: Args, *rest: Any, settings: Settings) -> Any:
    """Runs a function whose arrays all lead with the batch axes on every shard of them."""
    if not tpu_kernels_can_be_partitioned():
        return fn(args, *rest, settings=settings)
    batched = (True,) * (1 + len(rest))
    run = partition_over_batch(fn, batched=batched, num_batch_axes=args[0].ndim - 3)
    return run(args, *rest, settings=settings)


def _values(args: Args, *, settings: Settings) -> tuple[jax.Array, jax.Array]:
    out, final = _batchable(settings, "values")(_layout(args, settings))
    return _outputs(args, out, final)


def _values_and_states(args: Args, *, settings: Settings) -> tuple[jax.Array, ...]:
    out, final, kept = _batchable(settings, "values and states")(_layout(args, settings))
    return *_outputs(args, out, final), kept.reshape(*args[0].shape[:-3], *kept.shape[1:])


def _gradients(args: Args, kept: jax.Array, cotangents: Any, *, settings: Settings) -> Args:
    # the functions that lay arrays out are linear: their transposes bring gradients back
    inputs, lay_back = jax.vjp(functools.partial(_layout, settings=settings), args)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in _outputs_structs(inputs, settings)]
    lay_out = jax.linear_transpose(functools.partial(_outputs, args), *shapes)
    kept = kept.reshape(-1, *kept.shape[-4:])
    gradients = _batchable(settings, "gradients")(inputs, kept, *lay_out(cotangents))
    if inputs.resets is not None:  # constants
        gradients = gradients._replace(resets=jnp.zeros_like(inputs.resets))
    return lay_back(gradients)[0]


def _outputs_structs(x: Inputs, settings: Settings) -> tuple[Any, Any]:
    width = settings.groups * settings.shared * x.state.shape[-2]
    return jax.ShapeDtypeStruct((*x.q.shape[:2], width), x.q.dtype), x.state


def _outputs(args: Args, out: jax.Array, final: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Outputs and final states of the kernels in the shapes of the operation's."""
    q, state = args[0], args[-1]
    *lead, time, heads, _ = q.shape
    *_, key, value = state.shape
    out = out.reshape(*lead, time, heads, -1)[..., :value]
    final = jnp.swapaxes(final[..., :value, :key], -1, -2)
    return out, final.reshape(state.shape)


def _layout(args: Args, settings: Settings) -> Inputs:
    """The arrays as the kernels take them."""
    q, k, v, log_gate, resets, state = args
    *lead, _, key, value = state.shape
    q, k, v, log_gate, state = (
        x.reshape(-1, *x.shape[len(lead) :]) for x in (q, k, v, log_gate, state)
    )
    pads = [(0, 0), (0, 0), (0, padded(value) - value), (0, padded(key) - key)]
    if log_gate.shape[-1] == 1:
        gate = _in_chunks(jnp.swapaxes(log_gate[..., 0], 1, 2), settings)
    else:
        gate = _lanes(log_gate)
    return Inputs(
        _lanes(q),
        _lanes(k),
        _lanes(v),
        gate,
        None if resets is None else _in_chunks(resets.reshape(-1, 1, settings.time), settings),
        jnp.pad(jnp.swapaxes(state, -1, -2), pads),
    )


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

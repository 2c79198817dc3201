"""Gated linear attention by the kernels, differentiable to any order in reverse mode.

Heads lie side by side in the lanes, so that arrays `(B, T, H, K)` are read where they are if K is a
multiple of 128, and padded to it otherwise. The states before every step of the kernels are kept
for gradients.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, override

import jax
import jax.numpy as jnp
from jax import lax

from structlayers._core.batching import merge_batches
from structlayers._core.pallas import (
    tpu_interpreter,
    tpu_kernels_can_be_partitioned,
    tpu_vmem_bytes,
)
from structlayers.gla.differentiable import Args, Kernels, attend, filled
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
    ours = _Kernels(scale, layout.chunk, precision, settings)
    return attend(args, ours)


@dataclasses.dataclass(frozen=True)
class _Kernels(Kernels):
    """The kernels for these settings.

    Attributes:
        settings: of the calls.
    """

    settings: Settings

    @property
    @override
    def partitioned(self) -> bool:
        return tpu_kernels_can_be_partitioned()

    @override
    def values(self, args: Args, known: None) -> tuple[jax.Array, jax.Array]:
        del known
        out, final = _batchable(self.settings, "values")(_layout(args, self.settings))
        return _outputs(args, out, final)

    @override
    def values_and_states(self, args: Args, known: None) -> tuple[jax.Array, jax.Array, jax.Array]:
        del known
        run = _batchable(self.settings, "values and states")
        out, final, kept = run(_layout(args, self.settings))
        return *_outputs(args, out, final), kept.reshape(*args[0].shape[:-3], *kept.shape[1:])

    @override
    def gradients(self, args: Args, kept: jax.Array, cotangents: Any) -> Args:
        # the functions that lay arrays out are linear: their transposes bring gradients back
        settings = self.settings
        inputs, lay_back = jax.vjp(functools.partial(_layout, settings=settings), args)
        structs = _outputs_structs(inputs, settings)
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in structs]
        lay_out = jax.linear_transpose(functools.partial(_outputs, args), *shapes)
        kept = kept.reshape(-1, *kept.shape[-4:])
        gradients = _batchable(settings, "gradients")(
            inputs, kept, *lay_out(filled(args, cotangents))
        )
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
    return merge_batches(calls[what])

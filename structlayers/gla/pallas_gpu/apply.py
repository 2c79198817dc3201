"""Gated linear attention by the kernels, differentiable to any order in reverse mode.

For gradients the states before chunks are kept, in bfloat16, and the images of chunks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, override

import jax
import jax.numpy as jnp
from jax import lax

from structlayers._core.batching import merge_batches
from structlayers._core.operands import pad_features
from structlayers.gla.batch_invariance import is_batch_invariant
from structlayers.gla.differentiable import Args, Kernels, attend, filled
from structlayers.gla.gates import with_resets
from structlayers.gla.low_memory import is_low_memory
from structlayers.gla.packing import Packing
from structlayers.gla.pallas_gpu import calls
from structlayers.gla.pallas_gpu.calls import Kept
from structlayers.gla.pallas_gpu.segments import Segments
from structlayers.gla.pallas_gpu.support import padded_sizes
from structlayers.gla.sequence_axis import SequenceAxis


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
    sequence_axis: SequenceAxis | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The recurrence in the reference, for what `support.check` lets pass.

    Args:
        q: bfloat16 `(*B, T, H, K)`.
        k: `(*B, T, G, K)`.
        v: `(*B, T, G, V)`.
        log_gate: float32 `(*B, T, G, K)`, axes of 1 are broadcast; or None.
        log_value_gate: None.
        initial_state: float32 `(*B, G, K, V)`, None is zero.
        resets: bool `(*B, T)`, where a sequence begins; or None.
        packing: None.
        scale: of the outputs.
        chunk_size: of second derivatives; the kernels have 64.
        precision: of those too.
        sequence_axis: over whose ranks the tokens go on; or None.

    Returns:
        o `(*B, T, H, V)` in bfloat16, and the final states, float32 `(*B, G, K, V)`.
    """
    del log_value_gate, packing
    *lead, _, groups, key = k.shape
    log_gate = with_resets(log_gate, resets)
    log_gate = jnp.zeros((1, 1, 1), jnp.float32) if log_gate is None else log_gate
    log_gate = jnp.broadcast_to(log_gate, k.shape)
    starts = initial_state is not None or sequence_axis is not None
    segments = 1 if is_batch_invariant() else None
    ours = _Kernels(scale, chunk_size, precision, starts, sequence_axis, segments, is_low_memory())
    value = v.shape[-1]
    sizes = padded_sizes(key, value)
    if initial_state is None:
        initial_state = jnp.zeros((*lead, groups, *sizes), jnp.float32)
    # keys of 0 leave states of 0, which gates of 0 keep
    args: Args = (
        pad_features(q, sizes[0]),
        pad_features(k, sizes[0]),
        pad_features(v, sizes[1]),
        pad_features(log_gate, sizes[0]),
        None,
        pad_features(initial_state, *sizes),
    )
    out, final = attend(args, ours)
    return out[..., :value], final[..., :key, :value]


@dataclasses.dataclass(frozen=True)
class _Kernels(Kernels):
    """The kernels.

    Attributes:
        starts: whether there is an initial state.
        ranks: the sequence axis.
        segments: of a sequence, or of a rank's part of it; None for as many as there are blocks
            of threads for.
        saves: whether gradients are to take little memory.
    """

    starts: bool
    ranks: SequenceAxis | None
    segments: int | None
    saves: bool

    @property
    @override
    def partitioned(self) -> bool:
        return self.ranks is None

    @property
    @override
    def sequence_axis(self) -> SequenceAxis | None:
        return self.ranks

    @override
    def alone(self) -> "_Kernels":
        return dataclasses.replace(self, ranks=None)

    @override
    def summarize(self, args: Args, *, keeps: bool) -> tuple[jax.Array, jax.Array, Segments]:
        q, k, v, gate, _, state = args
        lead = len(q.shape[:-3])
        run = _batchable("summarize", scale=self.scale, segments=self.segments)
        known = run(*(_flat(x, lead) for x in (q, k, v, gate)))
        own, log_decay = known.run(_flat(state, lead))[0], known.log_decay()
        known = jax.tree.map(lambda x: x.reshape(*q.shape[:-3], *x.shape[1:]), known)
        return own.reshape(state.shape), log_decay.reshape(*state.shape[:-1], 1), known

    @override
    def values(self, args: Args, known: Segments | None) -> tuple[jax.Array, jax.Array]:
        final, out, _ = self._forward(args, known, keeps=False)
        return out, final

    @override
    def values_and_states(
        self, args: Args, known: Segments | None
    ) -> tuple[jax.Array, jax.Array, Kept]:
        final, out, kept = self._forward(args, known, keeps=True)
        return out, final, kept

    def _forward(self, args: Args, known: Segments | None, *, keeps: bool) -> Any:
        q, k, v, gate, _, state = args
        lead = q.shape[:-3]
        arrays = (q, k, v, gate, state if self.starts else None, known)
        flat = jax.tree.map(lambda x: _flat(x, len(lead)), arrays)
        static = {"scale": self.scale, "keeps": keeps, "segments": self.segments}
        results = _batchable("forward", **static)(*flat)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), results)

    @override
    def gradients(self, args: Args, kept: Any, cotangents: Any) -> Args:
        q, k, v, gate, _, state = args
        dout, dfinal = cotangents
        heads, groups, lead, known = q.shape[-2], k.shape[-2], len(q.shape[:-3]), None
        if self.ranks is not None:
            dout, dfinal = filled(args, cotangents)
            kept, all_decays = kept
            run = _batchable("summarize", scale=self.scale, segments=self.segments)
            known = run(*(_flat(x, lead) for x in (q, k, dout, gate, kept.images)))
            own, _ = known.run(_flat(_first_heads(dfinal, heads), lead), reverse=True)
            own = own.reshape(*dfinal.shape[:-3], heads, *dfinal.shape[-2:])
            own = _sum_shared(own, groups, -3).reshape(dfinal.shape)
            dfinal = dfinal + self.ranks.send_back(own, all_decays)
        dfinal = None if dfinal is None else _first_heads(dfinal, heads)
        arrays = (q, k, v, gate, kept, dout, dfinal)
        flat = jax.tree.map(lambda x: _flat(x, lead), arrays)
        run = _batchable("backward", scale=self.scale, saves=self.saves)
        dq, dk, dv, dgate, dstate = run(*flat, known)
        dk, dv, dgate = (
            _sum_shared(dx, groups, -2).reshape(x.shape).astype(x.dtype)
            for dx, x in ((dk, k), (dv, v), (dgate, gate))
        )
        dstate = _sum_shared(dstate, groups, -3).reshape(state.shape)
        return dq.reshape(q.shape), dk, dv, dgate, None, dstate


def _flat(x: jax.Array, lead: int) -> jax.Array:
    return x.reshape(-1, *x.shape[lead:])


def _first_heads(dfinal: jax.Array, heads: int) -> jax.Array:
    """Cotangents of states of key heads as those of the first of the query heads that share one."""
    *lead, groups, key, value = dfinal.shape
    first = jnp.arange(heads // groups)[:, None, None] == 0
    dfinal = jnp.where(first, dfinal[..., None, :, :], 0.0)
    return dfinal.reshape(*lead, heads, key, value)


def _sum_shared(x: jax.Array, groups: int, axis: int) -> jax.Array:
    """Sums over the query heads of each key head."""
    axis += x.ndim
    heads = x.shape[axis]
    if heads == groups:
        return x
    x = x.reshape(*x.shape[:axis], groups, heads // groups, *x.shape[axis + 1 :])
    return jnp.sum(x, axis + 1, dtype=jnp.float32)


@functools.lru_cache(maxsize=256)
def _batchable(what: str, **static: Any) -> Callable[..., Any]:
    """A call of kernels with a rule for `jax.vmap`: one more axis of the batch."""
    return merge_batches(functools.partial(getattr(calls, what), **static))

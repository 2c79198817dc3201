"""Argument checks that the operations of the family share."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers._core.checks import (
    is_known,
    next_power_of_two,
    require_power_of_two,
    require_real,
)
from structlayers._core.precision import accumulation_dtype
from structlayers.gla.packing import Tokens

DEFAULT_CHUNK_SIZE = 64


def check_heads(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, axes: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values as arrays of one dtype whose heads fit together.

    Args:
        q: `(axes, H, K)`.
        k: `(axes, G, K)`, H a multiple of G.
        v: `(axes, G, V)`.
        axes: the axes in front, for messages: "*B, T" or "*B".

    Raises:
        TypeError: not real floating point of 16 bits at least, or different dtypes.
        ValueError: a shape that does not fit.
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    for name, array in (("q", q), ("k", k), ("v", v)):
        require_real(name, array)
        if array.dtype.itemsize < 2:
            raise TypeError(f"{name} must have at least 16 bits, got {array.dtype}")
        if array.dtype != q.dtype:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}, got {array.dtype}")
    least = 2 + axes.count("T")
    if q.ndim < least or 0 in q.shape[-2:]:
        raise ValueError(f"q must have shape ({axes}, H, K) with H, K >= 1, got {q.shape}")
    *lead, heads, width = q.shape
    groups = k.shape[-2] if k.ndim == q.ndim else 0
    if k.shape != (*lead, groups, width) or not groups or heads % groups:
        raise ValueError(
            f"k must have shape ({axes}, G, K) = ({_listed(lead)}G, {width}) with G dividing "
            f"H = {heads}, got {k.shape}"
        )
    if v.ndim != q.ndim or v.shape[:-1] != (*lead, groups) or not v.shape[-1]:
        raise ValueError(
            f"v must have shape ({axes}, G, V) = ({_listed(lead)}{groups}, V) with V >= 1, "
            f"got {v.shape}"
        )
    return q, k, v


def _listed(sizes: Sequence[int]) -> str:
    return "".join(f"{size}, " for size in sizes)


def check_gate(
    name: str, gate: ArrayLike | None, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array | None:
    """A log gate of one channel or of all, `(*lead, 1)` or `shape`, in the dtype of the state.

    Args:
        name: the argument's name.
        gate: of the rank of `shape`, each axis of its size or 1; None passes.
        shape: `(*lead, D)`.
        dtype: to compute in.

    Raises:
        TypeError: not real floating point.
        ValueError: a shape that does not fit, or known values above 0 or NaN.
    """
    if gate is None:
        return None
    fits = _holds(gate, lambda values: values <= 0)
    gate = jnp.asarray(gate)
    require_real(name, gate)
    if gate.ndim != len(shape) or any(
        size not in (1, want) for size, want in zip(gate.shape, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must have shape {shape}, or 1 in place of any of its sizes, got {gate.shape}"
        )
    if not fits:
        raise ValueError(
            f"{name} must be at most 0 and not NaN, as the logarithm of a gate in [0, 1]"
        )
    return jnp.broadcast_to(gate.astype(dtype), (*shape[:-1], gate.shape[-1]))


def check_tokens(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None,
    log_value_gate: ArrayLike | None,
    axes: str,
) -> Tokens:
    """What `check_heads` and `check_gate` say of them; value gates of one channel merged."""
    q, k, v = check_heads(q, k, v, axes)
    dtype = accumulation_dtype(q.dtype)
    log_gate = check_gate("log_gate", log_gate, k.shape, dtype)
    log_value_gate = check_gate("log_value_gate", log_value_gate, v.shape, dtype)
    return q, k, v, *_merge_gates(log_gate, log_value_gate)


def _merge_gates(
    log_gate: jax.Array | None, log_value_gate: jax.Array | None
) -> tuple[jax.Array | None, jax.Array | None]:
    """A value gate of one channel acts on the whole state: it joins the key gate."""
    if log_value_gate is None or log_value_gate.shape[-1] > 1:
        return log_gate, log_value_gate
    return (log_value_gate if log_gate is None else log_gate + log_value_gate), None


def check_state(
    name: str, state: ArrayLike, axes: str, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    """A state as an array of exactly this shape and dtype.

    Raises:
        TypeError: another dtype.
        ValueError: another shape.
    """
    state = jnp.asarray(state)
    if state.shape != shape:
        raise ValueError(f"{name} must have shape ({axes}) = {shape}, got {state.shape}")
    if state.dtype != dtype:
        raise TypeError(f"{name} must be {jnp.dtype(dtype)}, got {state.dtype}")
    return state


def check_scale(scale: int | float | None, width: int) -> float:
    """The scale of the outputs; None is `1 / sqrt(K)`.

    Raises:
        TypeError: an array: the scale is static.
        ValueError: not finite.
    """
    if scale is None:
        return width**-0.5
    if isinstance(scale, jax.Array | np.ndarray):
        raise TypeError(f"scale must be a Python number, got an array {scale!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def check_chunk_size(chunk_size: int | None, time: int) -> int:
    """A power of two, no larger than needed to hold the sequence.

    Raises:
        ValueError: no power of two.
    """
    size = DEFAULT_CHUNK_SIZE if chunk_size is None else chunk_size
    return min(require_power_of_two("chunk_size", size), next_power_of_two(max(time, 1)))


def check_segment_ids(segment_ids: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Integers `(*B, T)` that do not decrease.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or known values that decrease or do not fit 32 bits.
    """
    ids = _integers("segment_ids", segment_ids)
    if ids.shape != shape:
        raise ValueError(f"segment_ids must have shape (*B, T) = {shape}, got {ids.shape}")
    if not _holds(segment_ids, lambda values: values[..., 1:] >= values[..., :-1]):
        raise ValueError("segment_ids must not decrease along T")
    return ids


def segment_starts(ids: jax.Array) -> jax.Array:
    """Where a segment begins, bool `(*B, T)`; the first one goes on from the initial state."""
    changes = ids[..., 1:] != ids[..., :-1]
    return jnp.pad(changes, [(0, 0)] * (ids.ndim - 1) + [(1, 0)])


def check_cu_seqlens(cu_seqlens: ArrayLike, lead: tuple[int, ...]) -> jax.Array:
    """Integers `(S + 1,)` from 0 that do not decrease, at most T; one batch entry at most.

    Raises:
        TypeError: not integers.
        ValueError: another shape, known values that do not fit, or more than one batch entry.
    """
    ends = _integers("cu_seqlens", cu_seqlens)
    if ends.ndim != 1 or ends.shape[0] < 2:
        raise ValueError(f"cu_seqlens must have shape (S + 1,) with S >= 1, got {ends.shape}")
    *batch, time = lead
    if batch not in ([], [1]):
        raise ValueError(
            f"cu_seqlens needs q of shape (T, H, K) or (1, T, H, K), got batch axes {tuple(batch)}"
        )
    if is_known(cu_seqlens):
        values = np.asarray(cu_seqlens)
        if values[0] != 0 or values[-1] > time or np.any(np.diff(values) < 0):
            raise ValueError(
                f"cu_seqlens must start at 0, not decrease, and end at T = {time} or before, "
                f"got {values.tolist()}"
            )
    return ends


def check_lengths(lengths: ArrayLike, lead: tuple[int, ...]) -> jax.Array:
    """Integers `(*B,)` from 0 to T.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or known values out of range.
    """
    counts = _integers("lengths", lengths)
    *batch, time = lead
    if counts.shape != tuple(batch):
        raise ValueError(f"lengths must have shape (*B,) = {tuple(batch)}, got {counts.shape}")
    if not _holds(lengths, lambda values: (values >= 0) & (values <= time)):
        raise ValueError(f"lengths must be from 0 to T = {time}, got {np.asarray(lengths)}")
    return counts


def _holds(values: ArrayLike, condition: Callable[[jax.Array], jax.Array]) -> bool:
    """Whether a condition holds for all values, as far as they can be read; never traced."""
    if not is_known(values):
        return True
    with jax.ensure_compile_time_eval():
        return bool(jnp.all(condition(jnp.asarray(values))))


def _integers(name: str, values: ArrayLike) -> jax.Array:
    """As an array of JAX, which has 64 bits under x64 alone and would drop the upper 32."""
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if isinstance(values, np.ndarray) and np.any(values != values.astype(array.dtype)):
        raise ValueError(f"{name} must fit {array.dtype}, got {values.min()} to {values.max()}")
    return array

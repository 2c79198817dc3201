"""`sequence_parallel_gated_linear_attention`: time sharded over the devices of a mesh axis."""

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla.ops.arguments import (
    check_chunk_size,
    check_scale,
    check_segment_ids,
    check_state,
    check_tokens,
    segment_starts,
)
from structlayers.gla.ops.attention import dispatcher
from structlayers.gla.packing import Tokens
from structlayers.gla.sequence_axis import SequenceAxis

# Implementations that take a `sequence_axis`.
_EXCHANGE_WITHIN = ("xla", "pallas_gpu")


@overload
def sequence_parallel_gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    axis_name: str,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: Literal[False] = False,
    segment_ids: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array: ...


@overload
def sequence_parallel_gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    axis_name: str,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: Literal[True],
    segment_ids: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]: ...


def sequence_parallel_gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    axis_name: str,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: bool = False,
    segment_ids: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`gated_linear_attention` inside `jax.shard_map`, with time sharded over an axis of the mesh.

    Rank r of P holds the r-th run of T tokens of a sequence of P T. With the state S_r that its
    tokens leave when they begin from zero and the sum a_r of their log gates, the state before
    rank r is `sum_(j < r) exp(a_(j+1) + ... + a_(r-1)) * S_j`. Ranks gather the pairs (S_r, a_r) by
    one collective, `4 (K V + K)` bytes a rank, sequence and key head; the backward pass gathers the
    gradients of those states, `4 K V` bytes. Two small messages more where they are asked for: the
    ids at the ends of runs, and the final state. Nothing grows with T.

    Args:
        q: this rank's queries `(*B, T, H, K)`; everything else as in `gated_linear_attention`.
        k: `(*B, T, G, K)`.
        v: `(*B, T, G, V)`.
        log_gate: `(*B, T, G, K)` with 1 in place of any size, or None.
        axis_name: the axis of the mesh that shards T, in order.
        log_value_gate: `(*B, T, G, V)` with 1 in place of any size, or None.
        initial_state: before the whole sequence, `(*B, G, K, V)`, alike on all ranks.
        output_final_state: whether to return the state after the whole sequence.
        segment_ids: integers `(*B, T)`; segments go on across ranks where ids do.
        reverse: run from the last token of the last rank to the first token of the first.
        scale: s; None is `1 / sqrt(K)`.
        chunk_size: tokens in a chunk; None chooses.
        precision: of float32 products; None is the highest. States are exchanged and added up in
            float32 (float64).
        implementation: of the pass over a rank's own tokens. "xla" and "pallas_gpu" exchange
            states in the middle of it; the others need the products of keys and values once more
            before it.

    Returns:
        o `(*B, T, H, V)` of this rank's tokens; with `output_final_state` the pair of o and the
        final state, alike on all ranks. Reverse-mode derivatives of any order.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: as in `gated_linear_attention`, or no enclosing `jax.shard_map` has the axis.

    Example:
        >>> count, time = jax.device_count(), jax.sharding.PartitionSpec("time")
        >>> mesh = jax.make_mesh((count,), ("time",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> @jax.shard_map(mesh=mesh, in_specs=time, out_specs=time)
        ... def attend(x):
        ...     return sequence_parallel_gated_linear_attention(x, x, x, axis_name="time")
        >>> attend(jnp.ones((2 * count, 1, 1))).ravel().tolist() == list(range(1, 2 * count + 1))
        True

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, section 4.2, for the recurrence of states.
        Sun et al., "LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its Hybrid",
        2025, arXiv:2502.07563, for one gathering of states.
        Chou et al., "ZeCO: Zero Communication Overhead Sequence Parallelism for Linear Attention",
        2025, arXiv:2507.01004, for states with vector decay.
    """
    tokens = check_tokens(q, k, v, log_gate, log_value_gate, "*B, T")
    q, k, v, _, _ = tokens
    *batch, time, groups, width = k.shape
    dtype = accumulation_dtype(q.dtype)
    axis = SequenceAxis(axis_name, reverse)
    static = {
        "scale": check_scale(scale, width),
        "chunk_size": check_chunk_size(chunk_size, time),
        "precision": canonicalize_precision(precision),
    }
    shape, state = (*batch, groups, width, v.shape[-1]), None
    if initial_state is not None:
        state = check_state("initial_state", initial_state, "*B, G, K, V", shape, dtype)
    ids = None if segment_ids is None else check_segment_ids(segment_ids, q.shape[:-2])
    if time == 0:
        out = jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
        final = jnp.zeros(shape, dtype) if state is None else state
        return (out, final) if output_final_state else out

    if reverse:
        tokens = jax.tree.map(lambda x: jnp.flip(x, -3), tokens)
        ids = None if ids is None else jnp.flip(ids, -1)
    resets = None if ids is None else _segment_starts(ids, axis)
    out, final = _run(tokens, state, resets, axis, implementation, static)
    out = jnp.flip(out, -3) if reverse else out
    return (out, axis.from_last(final)) if output_final_state else out


def _segment_starts(ids: jax.Array, axis: SequenceAxis) -> jax.Array:
    """Where a segment begins, bool `(*B, T)`, also at the start of a rank's tokens."""
    begins = (axis.from_previous(ids[..., -1]) != ids[..., 0]) & (axis.position > 0)
    return segment_starts(ids).at[..., 0].set(begins)


def _run(
    tokens: Tokens,
    state: jax.Array | None,
    resets: jax.Array | None,
    axis: SequenceAxis,
    implementation: str | None,
    static: dict[str, Any],
) -> tuple[jax.Array, jax.Array]:
    """Outputs, and the state after this rank's last token."""
    from structlayers.gla.xla import chunks

    args = (*tokens, state, resets, None)
    choice = dispatcher.choose(*args, implementation=implementation, **static)
    if choice.name in _EXCHANGE_WITHIN:
        static["sequence_axis"] = axis
        return dispatcher(*args, implementation=choice.name, **static)
    options = {name: static[name] for name in ("chunk_size", "precision")}
    own, log_decays = chunks.own_state(*tokens[1:], resets, **options)
    state = axis.incoming_state(own, log_decays, state)
    return dispatcher(*tokens, state, resets, None, implementation=choice.name, **static)

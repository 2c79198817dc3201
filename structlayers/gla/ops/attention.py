"""`gated_linear_attention`: a linear recurrence with gates over a whole sequence."""

import functools
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.partitioning import batch_sharding_is_known, vary_alike
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.gla.ops.arguments import (
    DEFAULT_CHUNK_SIZE,
    check_chunk_size,
    check_cu_seqlens,
    check_scale,
    check_segment_ids,
    check_state,
    check_tokens,
    segment_starts,
)
from structlayers.gla.packing import Packing, Tokens, chunk_packing, owners, pack, unpack

# What knows sequences one after the other only by gates of 0 between them.
_WITHOUT_PACKING = ("parallel", "pallas_tpu", "pallas_gpu")
# Weights of all pairs, 4 bytes each, that the parallel form may hold.
_PARALLEL_WEIGHTS = 2**28


def _check_parallel(q: Any, k: Any, *args: Any, platform: str, **static: Any) -> None:
    del platform, static
    if isinstance(args[-1], Packing):
        raise NotImplementedError("the parallel form knows no states of packed sequences")
    weights = k.size * q.shape[-3]
    if weights > _PARALLEL_WEIGHTS:
        raise NotImplementedError(f"it would hold {weights} weights, over {_PARALLEL_WEIGHTS}")


def _check_pallas_tpu(*args: Any, **static: Any) -> None:
    from structlayers.gla.pallas_tpu.support import check

    check(*args, **static)


def _check_pallas_gpu(*args: Any, **static: Any) -> None:
    from structlayers.gla.pallas_gpu.support import check

    check(*args, **static)


_KERNELS = {
    "tpu": ("pallas_tpu", "faster than xla by compiled estimates, see kernels.md"),
    "gpu": ("pallas_gpu", "faster than xla on H200, see kernels.md"),
}


def _prefer(
    q: Any, k: Any, v: Any, *args: Any, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    """The kernels, from one chunk on, where it is known how arrays are sharded."""
    from structlayers.gla.pallas_gpu.support import padding_pays

    del args, static
    if q.shape[-3] < DEFAULT_CHUNK_SIZE or not batch_sharding_is_known():
        return ()
    if platform == "gpu" and not padding_pays(k.shape[-1], v.shape[-1]):
        return ()
    return (_KERNELS[platform],) if platform in _KERNELS else ()


# Every implementation is called with (q, k, v, log_gate, log_value_gate, initial_state, resets,
# packing), as described in the reference, and gives outputs and final states.
dispatcher = Dispatcher(
    "gated_linear_attention",
    (
        Implementation("xla", "structlayers.gla.xla.chunks:gated_linear_attention"),
        Implementation("reference", "structlayers.gla.reference:gated_linear_attention"),
        Implementation(
            "parallel",
            "structlayers.gla.reference:gated_linear_attention_parallel",
            _check_parallel,
        ),
        Implementation(
            "pallas_tpu",
            "structlayers.gla.pallas_tpu.apply:gated_linear_attention",
            _check_pallas_tpu,
        ),
        Implementation(
            "pallas_gpu",
            "structlayers.gla.pallas_gpu.apply:gated_linear_attention",
            _check_pallas_gpu,
        ),
    ),
    _prefer,
)


@overload
def gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: Literal[False] = False,
    segment_ids: ArrayLike | None = None,
    cu_seqlens: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array: ...


@overload
def gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: Literal[True],
    segment_ids: ArrayLike | None = None,
    cu_seqlens: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]: ...


def gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    log_gate: ArrayLike | None = None,
    *,
    log_value_gate: ArrayLike | None = None,
    initial_state: ArrayLike | None = None,
    output_final_state: bool = False,
    segment_ids: ArrayLike | None = None,
    cu_seqlens: ArrayLike | None = None,
    reverse: bool = False,
    scale: int | float | None = None,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Linear attention with a state that decays by gates.

    Per head `S_t = (a_t b_t^T) * S_(t-1) + k_t v_t^T` and `o_t = s q_t S_t`: `a_t =
    exp(log_gate_t)` forgets along keys, `b_t = exp(log_value_gate_t)` along values, and the output
    reads the new state. Equivalently, with all gates between two tokens, `o_t = s sum_(i <= t)
    sum_c q_tc k_ic exp(log_gate_(i+1) + ... + log_gate_t)_c v_i`. `4 K V + 2 C (K + V)` operations
    a token and head, linear in T. Special cases by the shape of `log_gate`: none is linear
    attention; `(1, 1, H, 1)`, a constant for each head, RetNet; `(B, T, H, 1)` the scalar gates of
    Mamba-2; `(B, T, H, K)` gated linear attention.

    Args:
        q: queries `(*B, T, H, K)`, float32, bfloat16, float16, or float64 under x64.
        k: keys `(*B, T, G, K)` of the same dtype. H is a multiple of G: query head h reads the
            state of key head `h // (H / G)`, and nothing is repeated.
        v: values `(*B, T, G, V)` of the same dtype.
        log_gate: logarithms of gates in [0, 1], at most 0 and -inf allowed: `(*B, T, G, K)` with 1
            in place of any size; a last axis of 1 is never spread over K. Any real dtype; computed
            in float32 (float64 with float64 q). None: no gate. Traced values above 0 are not
            seen, and overflow in time.
        log_value_gate: the same for values, `(*B, T, G, V)`.
        initial_state: float32 (float64) `(*B, G, K, V)`, zero if None; `(S, G, K, V)` with
            `cu_seqlens`. With `segment_ids`, the state before the first segment of each row.
        output_final_state: whether to return the state after the last token too.
        segment_ids: integers `(*B, T)` that do not decrease: tokens see their own segment only.
            The final state is that of the last segment.
        cu_seqlens: integers `(S + 1,)`, the ends of S sequences laid out one after the other in q
            of shape `(T, H, K)` or `(1, T, H, K)`: 0 first, not decreasing; sequences may be
            empty, and outputs of tokens after the last are 0. States are one for each sequence,
            and results are those of the sequences on their own. Kernels, which serve it where no
            states are given or asked for, set sequences apart as with `segment_ids`, so all tokens
            must be finite there. Traced values are not checked.
        reverse: run from the last token to the first; `initial_state` then stands after the last
            token, and the final state is the one after the first.
        scale: s; None is `1 / sqrt(K)`.
        chunk_size: tokens C in a chunk, a power of two; None is 64, or less for short sequences.
        precision: of float32 products; None is the highest, true float32. bfloat16 data are
            multiplied as bfloat16 and summed in float32; float16 data in float32.
        implementation: "xla" (chunks), "pallas_tpu" (chunks in kernels; float32 and bfloat16, not
            with states of `cu_seqlens` or gates of V channels), "pallas_gpu" (the same for Hopper;
            bfloat16, K up to 256), "reference" (token by token), "parallel" (all pairs,
            `O(T^2 K)` memory, not with states of `cu_seqlens`), or None to choose.

    Returns:
        o `(*B, T, H, V)` in the dtype of q; with `output_final_state` the pair of o and the final
        states, float32 (float64), of the shape of `initial_state`. Reverse-mode derivatives of any
        order; forward mode where products are not bfloat16. For derivatives the arguments are kept,
        by kernels for TPUs also some states, and by those for Hopper the states before chunks of 64
        tokens, or with K > 64 before every second one, and what the recurrence reads of chunks: a
        token and query head `K V / 32` bytes, or `K V / 64`, and `4 K + K / 16 + 128`.

    Raises:
        TypeError: a dtype that does not fit.
        ValueError: a shape that does not fit, known gates above 0, ids or ends that decrease, both
            `segment_ids` and `cu_seqlens`, or a chunk size that is no power of two.

    Example:
        >>> q = k = jnp.ones((3, 1, 1))
        >>> v = jnp.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)
        >>> half = jnp.full((1, 1, 1), jnp.log(0.5))
        >>> gated_linear_attention(q, k, v, half)[:, 0, 0].tolist()
        [1.0, 2.5, 5.25]

    References:
        Yang, Wang, Shen, Panda, Kim, "Gated Linear Attention Transformers with Hardware-Efficient
        Training", 2024, arXiv:2312.06635, equations 3 and 4, section 4.
        Sun et al., "Retentive Network", 2023, arXiv:2307.08621.
        Dao, Gu, "Transformers are SSMs", 2024, arXiv:2405.21060.
    """
    tokens = check_tokens(q, k, v, log_gate, log_value_gate, "*B, T")
    q, k, v, _, _ = tokens
    *batch, time, groups, width = k.shape
    dtype = accumulation_dtype(q.dtype)
    size = check_chunk_size(chunk_size, time)
    run = functools.partial(
        dispatcher,
        implementation=implementation,
        scale=check_scale(scale, width),
        chunk_size=size,
        precision=canonicalize_precision(precision),
    )
    state_shape = (groups, width, v.shape[-1])
    ends = ids = None
    if cu_seqlens is not None:
        if segment_ids is not None:
            raise ValueError("segment_ids and cu_seqlens must not be given both")
        ends = check_cu_seqlens(cu_seqlens, q.shape[:-2])
        axes, state_shape = "S, G, K, V", (ends.shape[0] - 1, *state_shape)
    else:
        axes, state_shape = "*B, G, K, V", (*batch, *state_shape)
        if segment_ids is not None:
            ids = check_segment_ids(segment_ids, q.shape[:-2])
    state = None
    if initial_state is not None:
        state = check_state("initial_state", initial_state, axes, state_shape, dtype)

    tokens, state = vary_alike((tokens, state))  # scans carry the state along with the tokens
    if reverse:
        tokens = jax.tree.map(lambda x: jnp.flip(x, -3), tokens)
        ids = None if ids is None else jnp.flip(ids, -1)
        if ends is not None:
            ends = time - jnp.flip(ends)
            state = None if state is None else jnp.flip(state, 0)
    if time == 0:
        out = jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
        final = jnp.zeros(state_shape, dtype) if state is None else state
    elif ends is None:
        out, final = run(*tokens, state, None if ids is None else segment_starts(ids), None)
    else:
        with_states = output_final_state or state is not None
        out, final = _run_packed(run, tokens, state, ends, size, with_states=with_states)
    out = jnp.flip(out, -3) if reverse else out
    if not output_final_state:
        return out
    return out, jnp.flip(final, 0) if reverse and ends is not None else final


def _run_packed(
    run: functools.partial[tuple[jax.Array, jax.Array]],
    tokens: Tokens,
    state: jax.Array | None,
    ends: jax.Array,
    chunk_size: int,
    *,
    with_states: bool,
) -> tuple[jax.Array, jax.Array]:
    """Sequences one after the other.

    Those that need no states are set apart where they are, if a kernel serves that; the final state
    is then the last one's alone. Else every sequence is moved to the start of a chunk, and outputs
    back, so that all have states.
    """
    *batch, time, _, _ = tokens[0].shape
    if not with_states:
        owner, inside = owners(ends, time)
        resets = jnp.broadcast_to(segment_starts(owner), (*batch, time))
        choice = dispatcher.choose(*tokens, None, resets, None, **run.keywords)
        if choice.name in _WITHOUT_PACKING:
            out, final = run(*tokens, None, resets, None)
            return jnp.where(inside[:, None, None], out, 0), final
    packing, places, size = chunk_packing(ends, time, chunk_size)
    packed = jax.tree.map(lambda x: pack(x[0] if batch else x, places, size), tokens)
    out, final = run(*packed, state, None, packing)
    out = unpack(out, places)
    return (out[None] if batch else out), final

"""Gated linear attention by chunks: matrix products, and one scan over chunks.

Inside a chunk the rows are halved again and again. The rows of a right half attend to those of the
left half by two matrix products, with the weights split at the boundary between them: every
exponent is a sum of gates, so none is positive. Gates of one channel weigh the scores of a whole
chunk instead. What reaches over a chunk's start goes through the state. Where the sequence is cut
into ranks, they exchange states between the products of keys and values and the scan. Derivatives
are those of this form; `jax.checkpoint` keeps nothing but the arguments for them (and what ranks
received), and makes states and scores again.
"""

import functools

import jax
import jax.numpy as jnp

from structlayers._core.precision import accumulation_dtype
from structlayers.gla.gates import (
    decay_of,
    decayed_sum,
    interval_sums,
    pairs,
    pairwise_sums,
    sums_after,
    with_resets,
)
from structlayers.gla.packing import Packing
from structlayers.gla.sequence_axis import EXCHANGED, SequenceAxis
from structlayers.gla.xla.products import Product, product_for

# (from the chunk's start to a row, from a row to the chunk's end), both (..., N, C, D)
type ChunkSums = tuple[jax.Array, jax.Array]

_keep_exchanged = jax.checkpoint_policies.save_only_these_names(EXCHANGED)


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "precision", "sequence_axis"))
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
    precision: jax.lax.Precision,
    sequence_axis: SequenceAxis | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The chunk form of the recurrence in the reference.

    Args:
        q: `(*B, T, H, K)`.
        k: `(*B, T, G, K)`.
        v: `(*B, T, G, V)`.
        log_gate: `(*B, T, G, K)` or `(*B, T, G, 1)`, or None.
        log_value_gate: `(*B, T, G, V)`, or None.
        initial_state: `(*B, G, K, V)`; with a packing `(S, G, K, V)`. None is zero.
        resets: bool `(*B, T)`, where a sequence begins; or None.
        packing: of sequences that begin chunks of T, without batch axes; or None.
        scale: of the outputs.
        chunk_size: power of two.
        precision: of float32 products.
        sequence_axis: over whose ranks the tokens go on, without a packing; or None.

    Returns:
        o `(*B, T, H, V)` in the dtype of q, and the final states, of the shape of the initial.
    """
    attend = functools.partial(
        _attend,
        scale=scale,
        chunk_size=chunk_size,
        precision=precision,
        sequence_axis=sequence_axis,
    )
    attend = jax.checkpoint(attend, policy=_keep_exchanged)
    return attend(q, k, v, log_gate, log_value_gate, initial_state, resets, packing)


@functools.partial(jax.jit, static_argnames=("chunk_size", "precision"))
def own_state(
    k: jax.Array,
    v: jax.Array,
    log_gate: jax.Array | None,
    log_value_gate: jax.Array | None,
    resets: jax.Array | None,
    *,
    chunk_size: int,
    precision: jax.lax.Precision,
) -> tuple[jax.Array, list[jax.Array]]:
    """What tokens do to the state before them: `S -> decay_of(log_decays) * S + own`.

    Arguments as in `gated_linear_attention`.

    Returns:
        own `(*B, G, K, V)`, and log_decays, `(*B, G, K, 1)` and `(*B, G, 1, V)` or the former.
    """

    def summarize(
        k: jax.Array, v: jax.Array, log_gate: jax.Array, log_value_gate: jax.Array | None
    ) -> tuple[jax.Array, list[jax.Array]]:
        product = product_for(k.dtype, precision)
        k, v = (x.astype(accumulation_dtype(x.dtype)) for x in (k, v))

        def decayed(x: jax.Array, log_gate: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Rows, decayed by all gates after them, and the sum of all gates."""
            _, (prefix, suffix) = interval_sums(_heads_first(log_gate, chunk_size), chunk_size)
            totals = prefix[..., -1:, :]
            weights = jnp.exp(suffix + sums_after(totals, -3))
            rows = _blocks(_heads_first(x, chunk_size), chunk_size) * weights
            return rows.reshape(*rows.shape[:-3], -1, rows.shape[-1]), jnp.sum(totals, -3)

        keys, total = decayed(k, log_gate)
        log_decays = [jnp.swapaxes(total, -1, -2)]
        values = _heads_first(v, chunk_size)
        if log_value_gate is not None:
            values, total = decayed(v, log_value_gate)
            log_decays.append(total)
        return product("...tk,...tv->...kv", keys, values), log_decays

    log_gate = _with_resets(log_gate, resets, k)
    return jax.checkpoint(summarize)(k, v, log_gate, log_value_gate)


def _attend(
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
    precision: jax.lax.Precision,
    sequence_axis: SequenceAxis | None,
) -> tuple[jax.Array, jax.Array]:
    dtype, wide = q.dtype, accumulation_dtype(q.dtype)
    product = product_for(dtype, precision)
    *batch, time, heads, width = q.shape
    groups = k.shape[-2]

    log_gate = _with_resets(log_gate, resets, k)
    # the R query heads that share keys and values lie beside each other: *B G T R K
    q = scale * q.astype(wide).reshape(*batch, time, groups, heads // groups * width)
    q, k, v = (_heads_first(x.astype(wide), chunk_size) for x in (q, k, v))
    q = q.reshape(*q.shape[:-1], heads // groups, width)

    levels, sums = interval_sums(_heads_first(log_gate, chunk_size), chunk_size)
    if log_value_gate is None:
        value_levels, value_sums = [None] * len(levels), None
    else:
        value_gate = _heads_first(log_value_gate, chunk_size)
        value_levels, value_sums = interval_sums(value_gate, chunk_size)

    if log_gate.shape[-1] == 1 and log_value_gate is None:
        out = _within_chunks(q, k, v, pairwise_sums(levels, sums[0]), product)
    else:
        out = jnp.sum(q * k[..., None, :], axis=-1, keepdims=True) * v[..., None, :]
        for level, value_level in zip(levels, value_levels, strict=True):
            out = out + _across_split(q, k, v, level, value_level, product)
    updates, log_decays = _chunk_updates(k, v, sums, value_sums, product)
    if sequence_axis is not None:
        own = decayed_sum(updates, log_decays, -3)
        totals = [jnp.sum(x, -3) for x in log_decays]
        initial_state = sequence_axis.incoming_state(own, totals, initial_state)
    states, final = _states(decay_of(log_decays), updates, initial_state, packing)
    from_states = _from_states(q, states, sums[0], value_sums, product)
    # XLA's CPU backend fuses this sum with a product of which one operand is a broadcast, such as a
    # state of zeros, and leaves the result unwritten (seen with jax 0.12.0.1).
    out, from_states = jax.lax.optimization_barrier((out, from_states))
    out = (out + from_states)[..., :time, :, :]
    out = jnp.moveaxis(out, -3, -4).reshape(*batch, time, heads, v.shape[-1])
    return out.astype(dtype), final


def _with_resets(log_gate: jax.Array | None, resets: jax.Array | None, k: jax.Array) -> jax.Array:
    """Log gates of keys; zeros where there are none."""
    wide = accumulation_dtype(k.dtype)
    log_gate = with_resets(log_gate, resets, wide)
    if log_gate is None:
        return jnp.zeros((*(1,) * (k.ndim - 3), k.shape[-3], 1, 1), wide)
    return log_gate


def _heads_first(x: jax.Array, chunk_size: int) -> jax.Array:
    """`(*B, T, H, D)` to `(*B, H, N C, D)`; zeros, as gate and key, leave the state."""
    x = jnp.moveaxis(x, -3, -2)
    padding = -x.shape[-2] % chunk_size
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padding), (0, 0)])


def _blocks(x: jax.Array, size: int, axis: int = -2) -> jax.Array:
    """Cuts the axis of time into blocks: `(..., T, D)` to `(..., T / m, m, D)`."""
    axis += x.ndim
    return x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])


def _within_chunks(
    q: jax.Array, k: jax.Array, v: jax.Array, sums: jax.Array, product: Product
) -> jax.Array:
    """What rows take from their chunks when gates have one channel: weights of scores, not keys."""
    size = sums.shape[-1]
    scores = product("...irk,...jk->...irj", _blocks(q, size, -3), _blocks(k, size))
    scores = scores * jnp.exp(sums)[..., None, :]
    out = product("...irj,...jv->...irv", scores, _blocks(v, size))
    return out.reshape(*q.shape[:-1], v.shape[-1])


def _across_split(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sums: tuple[jax.Array, jax.Array],
    value_sums: tuple[jax.Array, jax.Array] | None,
    product: Product,
) -> jax.Array:
    """What right halves take from the left halves of their blocks: `(*B, G, T, R, V)`."""
    prefix, suffix = sums
    size = prefix.shape[-2]
    # *B G J m R K: the right halves of J blocks
    queries = _blocks(_blocks(q, size, -3), 2, -4)[..., 1, :, :, :]
    queries = queries * jnp.exp(prefix)[..., None, :]
    keys = pairs(_blocks(k, size))[..., 0, :, :] * jnp.exp(suffix)
    values = pairs(_blocks(v, size))[..., 0, :, :]
    if value_sums is not None:
        values = values * jnp.exp(value_sums[1])
    scores = product("...irk,...jk->...irj", queries, keys)
    out = product("...irj,...jv->...irv", scores, values)
    if value_sums is not None:
        out = out * jnp.exp(value_sums[0])[..., None, :]
    out = jnp.pad(out[..., None, :, :, :], [(0, 0)] * (out.ndim - 3) + [(1, 0)] + [(0, 0)] * 3)
    return out.reshape(*q.shape[:-1], v.shape[-1])


def _chunk_updates(
    k: jax.Array, v: jax.Array, sums: ChunkSums, value_sums: ChunkSums | None, product: Product
) -> tuple[jax.Array, list[jax.Array]]:
    """What every chunk adds to the state, `(*B, G, N, K, V)`, and the log decays of all before."""
    prefix, suffix = sums
    size = prefix.shape[-2]
    keys, values = _blocks(k, size) * jnp.exp(suffix), _blocks(v, size)
    log_decays = [prefix[..., -1, :, None]]
    if value_sums is not None:
        values = values * jnp.exp(value_sums[1])
        log_decays.append(value_sums[0][..., -1:, :])
    return product("...jk,...jv->...kv", keys, values), log_decays


def _from_states(
    q: jax.Array,
    states: jax.Array,
    prefix: jax.Array,
    value_sums: ChunkSums | None,
    product: Product,
) -> jax.Array:
    """What rows take from the states before their chunks."""
    queries = _blocks(q, prefix.shape[-2], -3) * jnp.exp(prefix)[..., None, :]
    out = product("...irk,...kv->...irv", queries, states)
    if value_sums is not None:
        out = out * jnp.exp(value_sums[0])[..., None, :]
    return out.reshape(*q.shape[:-1], out.shape[-1])


def _states(
    decay: jax.Array,
    updates: jax.Array,
    initial_state: jax.Array | None,
    packing: Packing | None,
) -> tuple[jax.Array, jax.Array]:
    """States before every chunk, `(*B, G, N, K, V)`, and the final ones."""
    decay, updates = jnp.moveaxis(decay, -3, 0), jnp.moveaxis(updates, -3, 0)
    zero = jnp.zeros_like(updates[0])

    def chunk(state: jax.Array, x: tuple) -> tuple[jax.Array, jax.Array]:
        decay, update, entering = x
        if entering is not None:
            first, given = entering
            state = jnp.where(first, given, state)
        return decay * state + update, state

    if packing is None:
        start = zero if initial_state is None else initial_state
        final, states = jax.lax.scan(chunk, start, (decay, updates, None))
        return jnp.moveaxis(states, 0, -3), final

    starts = initial_state
    if starts is None:
        starts = jnp.zeros((packing.last.shape[0], *zero.shape), zero.dtype)
    given = starts.at[packing.sequence].get(mode="clip")
    _, states = jax.lax.scan(chunk, zero, (decay, updates, (packing.first, given)))
    last = packing.last
    finals = decay[last] * states[last] + updates[last]
    finals = jnp.where((last >= 0)[:, None, None, None], finals, starts)
    return jnp.moveaxis(states, 0, -3), finals

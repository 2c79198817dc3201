"""Gated linear attention by chunks: matrix products, and one scan over chunks.

Inside a chunk the rows are halved again and again. The rows of a right half attend to those of the
left half by two matrix products, with the weights split at the boundary between them: every
exponent is a sum of gates, so none is positive. Gates of one channel weigh the scores of a whole
chunk instead. What reaches over a chunk's start goes through the
state. Derivatives are those of this form; `jax.checkpoint` keeps nothing but the arguments for
them, and makes states and scores again.
"""

import functools

import jax
import jax.numpy as jnp

from structlayers._core.precision import accumulation_dtype
from structlayers.gla.gates import interval_sums, pairs, pairwise_sums, with_resets
from structlayers.gla.packing import Packing
from structlayers.gla.xla.products import Product, product_for

# (from the chunk's start to a row, from a row to the chunk's end), both (..., N, C, D)
type ChunkSums = tuple[jax.Array, jax.Array]


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "precision"))
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

    Returns:
        o `(*B, T, H, V)` in the dtype of q, and the final states, of the shape of the initial.
    """
    attend = functools.partial(_attend, scale=scale, chunk_size=chunk_size, precision=precision)
    return jax.checkpoint(attend)(q, k, v, log_gate, log_value_gate, initial_state, resets, packing)


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
) -> tuple[jax.Array, jax.Array]:
    dtype, wide = q.dtype, accumulation_dtype(q.dtype)
    product = product_for(dtype, precision)
    *batch, time, heads, width = q.shape
    groups, padding = k.shape[-2], -time % chunk_size

    log_gate = with_resets(log_gate, resets, wide)
    if log_gate is None:
        log_gate = jnp.zeros((1,) * len(batch) + (time, 1, 1), wide)
    # the R query heads that share keys and values lie beside each other: *B G T R K
    q = scale * q.astype(wide).reshape(*batch, time, groups, heads // groups * width)
    q, k, v = (_heads_first(x.astype(wide), padding) for x in (q, k, v))
    q = q.reshape(*q.shape[:-1], heads // groups, width)

    levels, sums = interval_sums(_heads_first(log_gate, padding), chunk_size)
    if log_value_gate is None:
        value_levels, value_sums = [None] * len(levels), None
    else:
        value_gate = _heads_first(log_value_gate, padding)
        value_levels, value_sums = interval_sums(value_gate, chunk_size)

    if log_gate.shape[-1] == 1 and log_value_gate is None:
        out = _within_chunks(q, k, v, pairwise_sums(levels, sums[0]), product)
    else:
        out = jnp.sum(q * k[..., None, :], axis=-1, keepdims=True) * v[..., None, :]
        for level, value_level in zip(levels, value_levels, strict=True):
            out = out + _across_split(q, k, v, level, value_level, product)
    from_states, final = _across_chunks(q, k, v, sums, value_sums, initial_state, packing, product)
    # XLA's CPU backend fuses this sum with a product of which one operand is a broadcast, such as a
    # state of zeros, and leaves the result unwritten (seen with jax 0.12.0.1).
    out, from_states = jax.lax.optimization_barrier((out, from_states))
    out = (out + from_states)[..., :time, :, :]
    out = jnp.moveaxis(out, -3, -4).reshape(*batch, time, heads, v.shape[-1])
    return out.astype(dtype), final


def _heads_first(x: jax.Array, padding: int) -> jax.Array:
    """`(*B, T, H, D)` to `(*B, H, T + padding, D)`; zeros, as gate and key, leave the state."""
    x = jnp.moveaxis(x, -3, -2)
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


def _across_chunks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sums: ChunkSums,
    value_sums: ChunkSums | None,
    initial_state: jax.Array | None,
    packing: Packing | None,
    product: Product,
) -> tuple[jax.Array, jax.Array]:
    """What rows take from the states at the starts of their chunks, and the final states."""
    prefix, suffix = sums
    size = prefix.shape[-2]
    keys = _blocks(k, size) * jnp.exp(suffix)
    values = _blocks(v, size)
    decay = jnp.exp(prefix[..., -1, :])[..., :, None]  # *B G N K 1
    if value_sums is not None:
        values = values * jnp.exp(value_sums[1])
        decay = decay * jnp.exp(value_sums[0][..., -1, :])[..., None, :]
    updates = product("...jk,...jv->...kv", keys, values)
    states, final = _states(decay, updates, initial_state, packing)
    queries = _blocks(q, size, -3) * jnp.exp(prefix)[..., None, :]
    out = product("...irk,...kv->...irv", queries, states)
    if value_sums is not None:
        out = out * jnp.exp(value_sums[0])[..., None, :]
    return out.reshape(*q.shape[:-1], v.shape[-1]), final


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

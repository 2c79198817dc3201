"""Sequences of different lengths one after the other, laid out so that each begins a chunk.

Also the type of what is laid out: the arrays of one call that have an axis of time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# q, k, v, log_gate, log_value_gate
type Tokens = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]


class Packing(NamedTuple):
    """Which chunk holds which sequence.

    Attributes:
        sequence: int32 `(M,)`, the sequence of every chunk; S in chunks that hold none.
        first: bool `(M,)`, whether a chunk begins its sequence.
        last: int32 `(S,)`, the last chunk of every sequence; -1 for an empty one.
    """

    sequence: jax.Array
    first: jax.Array
    last: jax.Array


def chunk_packing(
    cu_seqlens: jax.Array, time: int, chunk_size: int
) -> tuple[Packing, jax.Array, int]:
    """Lays packed sequences out by chunks.

    The number of chunks depends on shapes only: `(T + S (C - 1)) // C` are enough for S sequences
    of T tokens together.

    Args:
        cu_seqlens: integers `(S + 1,)` that do not decrease, at most T: sequence s holds the
            tokens from `cu_seqlens[s]` to `cu_seqlens[s + 1]`.
        time: number of tokens T.
        chunk_size: tokens in a chunk, C.

    Returns:
        The packing, int32 `(T,)` with the new place of every token (outside for tokens that
        belong to no sequence), and the number of places.

    Example:
        >>> packing, places, size = chunk_packing(jnp.array([0, 3, 3, 4]), 5, 2)
        >>> places.tolist(), size, packing.sequence.tolist(), packing.last.tolist()
        ([0, 1, 2, 4, 12], 8, [0, 0, 2, 3], [1, -1, 2])
    """
    cu_seqlens = cu_seqlens.astype(jnp.int32)
    starts, count = cu_seqlens[:-1], cu_seqlens.shape[0] - 1
    chunks = (cu_seqlens[1:] - starts + chunk_size - 1) // chunk_size
    ends = jnp.cumsum(chunks)
    begins = ends - chunks
    total = (time + count * (chunk_size - 1)) // chunk_size

    index = jnp.arange(total, dtype=jnp.int32)
    # an empty sequence begins where the next one does; the last to begin there is the one
    sequence = jnp.searchsorted(begins, index, side="right").astype(jnp.int32) - 1
    sequence = jnp.where(index < ends[-1], sequence, count)
    first = (sequence < count) & (index == begins.at[sequence].get(mode="clip"))
    packing = Packing(sequence, first, jnp.where(chunks > 0, ends - 1, -1))

    token = jnp.arange(time, dtype=jnp.int32)
    owner, inside = owners(cu_seqlens, time)
    owner = jnp.clip(owner, 0, count - 1)
    places = begins[owner] * chunk_size + token - starts[owner]
    # tokens of no sequence keep places of their own, all of them outside
    return packing, jnp.where(inside, places, total * chunk_size + token), total * chunk_size


def owners(cu_seqlens: jax.Array, time: int) -> tuple[jax.Array, jax.Array]:
    """The sequence of every token.

    Args:
        cu_seqlens: as in `chunk_packing`.
        time: number of tokens T.

    Returns:
        int32 `(T,)`, -1 before the first sequence and S after the last; and bool `(T,)`, whether
        there is one.

    Example:
        >>> [found.tolist() for found in owners(jnp.array([0, 2, 2, 3]), 4)]
        [[0, 0, 2, 3], [True, True, True, False]]
    """
    token = jnp.arange(time, dtype=jnp.int32)
    cu_seqlens = cu_seqlens.astype(jnp.int32)
    owner = jnp.searchsorted(cu_seqlens, token, side="right").astype(jnp.int32) - 1
    return owner, (token >= cu_seqlens[0]) & (token < cu_seqlens[-1])


def pack(tokens: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """Moves `(T, ...)` to its places among `(size, ...)` zeros.

    Example:
        >>> pack(jnp.array([1.0, 2.0]), jnp.array([2, 0]), 3).tolist()
        [2.0, 0.0, 1.0]
    """
    empty = jnp.zeros((size, *tokens.shape[1:]), tokens.dtype)
    return empty.at[places].set(tokens, mode="drop", unique_indices=True)


def unpack(packed: jax.Array, places: jax.Array) -> jax.Array:
    """Takes `(T, ...)` back from its places; zeros for tokens outside.

    Example:
        >>> unpack(jnp.array([2.0, 0.0, 1.0]), jnp.array([2, 0, 9])).tolist()
        [1.0, 2.0, 0.0]
    """
    return packed.at[places].get(mode="fill", fill_value=0, unique_indices=True)

"""The equations of one chunk, on values in registers; the backward kernel differentiates them.

All weights are `exp` of sums of gates over intervals, none of them a difference, as in
`structlayers.gla.gates`: with gates of K channels by halving, on the vector unit, and with one
channel as masked sums. The state is held transposed, V x K: there a decay is a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.gla.pallas_tpu.products import product, rotate

# Stands for -inf where it meets a product with zero; the sum of a chunk is finite.
_LOWEST = -1e30


class Weights(NamedTuple):
    """What the gates of a chunk weigh.

    Attributes:
        levels: for blocks of 2, 4, ... C rows the sums on both sides of the split: `(C, K)`, of
            the gates up to a row in right halves, after a row in left halves; empty for one
            channel.
        pairs: of one channel between all rows, `(C, C)`, -inf above the diagonal; or None.
        prefix: `(C, K)` or `(C, 1)`, from the chunk's start to a row.
        suffix: from after a row to the chunk's end.
        total: `(1, K)` or `(1, 1)`, of the chunk.
    """

    levels: tuple[jax.Array, ...]
    pairs: jax.Array | None
    prefix: jax.Array
    suffix: jax.Array
    total: jax.Array


def _index(size: int, axis: int) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, (size, size), axis)


def as_column(row: jax.Array) -> jax.Array:
    """`(1, C)` to `(C, 1)`, without a transposition."""
    size = row.shape[-1]
    diagonal = _index(size, 0) == _index(size, 1)
    return jnp.sum(jnp.where(diagonal, row, 0.0), axis=1, keepdims=True)


def sum_gates(gate: jax.Array) -> Weights:
    """The sums of a chunk's gates.

    Args:
        gate: `(C, K)`, or a row `(1, C)` of gates of one channel.
    """
    return _sum_row(gate) if gate.shape[0] == 1 else _sum_channels(gate)


def _sum_row(gate: jax.Array) -> Weights:
    size = gate.shape[-1]
    gate = jnp.maximum(gate, _LOWEST)
    row, column = _index(size, 0), _index(size, 1)
    # the sum over j < l <= i is a product of two triangles: every term once, nothing cancels
    after = jnp.where(row > column, as_column(gate), 0.0)
    upto = jnp.where(column <= row, 1.0, 0.0)
    sums = product("nn", lax.Precision.HIGHEST, upto, after)
    return Weights(
        (),
        jnp.where(column <= row, sums, -jnp.inf),
        jnp.sum(jnp.where(column <= row, gate, 0.0), axis=1, keepdims=True),
        jnp.sum(jnp.where(column > row, gate, 0.0), axis=1, keepdims=True),
        jnp.sum(gate, axis=1, keepdims=True),
    )


def _sum_channels(gate: jax.Array) -> Weights:
    size = gate.shape[0]
    row = lax.broadcasted_iota(jnp.int32, gate.shape, 0)
    levels = []
    prefix, suffix, total = gate, jnp.zeros_like(gate), gate
    half = 1
    while half < size:
        right = (row & half) != 0
        levels.append(jnp.where(right, prefix, suffix))
        # a sum over a block stands in all its rows, so that rows find it at one distance
        other = jnp.where(right, rotate(half, total), rotate(size - half, total))
        prefix = prefix + jnp.where(right, other, 0.0)
        suffix = suffix + jnp.where(right, 0.0, other)
        total = total + other
        half *= 2
    return Weights(tuple(levels), None, prefix, suffix, jnp.sum(gate, axis=0, keepdims=True))


def _scores(
    q: jax.Array, k: jax.Array, weights: Weights, precision: lax.Precision | None
) -> jax.Array:
    """The weights of values, `(C, C)`, zero above the diagonal."""
    if weights.pairs is not None:
        return product("nt", precision, q, k) * jnp.exp(weights.pairs)
    size = q.shape[0]
    row, column = _index(size, 0), _index(size, 1)
    across = row ^ column  # its highest bit is the half of the block that is split between the two
    own = jnp.sum(q * k, axis=1, keepdims=True)
    scores = jnp.where(across == 0, own, 0.0)
    position = lax.broadcasted_iota(jnp.int32, q.shape, 0)
    for level, sums in enumerate(weights.levels):
        half = 1 << level
        # queries of right halves and keys of left ones share one array, and one exp
        mixed = jnp.where((position & half) != 0, q, k) * jnp.exp(sums)
        split = (row > column) & (across >= half) & (across < 2 * half)
        scores = jnp.where(split, product("nt", precision, mixed, mixed), scores)
    return scores


def next_state(
    k: jax.Array,
    v: jax.Array,
    weights: Weights,
    state: jax.Array,
    precision: lax.Precision | None,
) -> jax.Array:
    """The state `(V, K)` after a chunk."""
    keys = k * jnp.exp(weights.suffix)
    return state * jnp.exp(weights.total) + product("tn", precision, v, keys)


def attend(
    queries: Sequence[jax.Array],
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    state: jax.Array,
    precision: lax.Precision | None,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Outputs of one chunk and the state after it.

    Args:
        queries: `(C, K)` of every query head that reads this state, scaled; float32 as all.
        k: `(C, K)`.
        v: `(C, V)`.
        gate: `(C, K)`, or a row `(1, C)`.
        state: `(V, K)`, before the chunk.
        precision: of products; None is bfloat16.

    Returns:
        `(C, V)` of every query head, and `(V, K)`.
    """
    weights = sum_gates(gate)
    entered = jnp.exp(weights.prefix)
    outputs = tuple(
        product("nt", precision, q * entered, state)
        + product("nn", precision, _scores(q, k, weights, precision), v)
        for q in queries
    )
    return outputs, next_state(k, v, weights, state, precision)

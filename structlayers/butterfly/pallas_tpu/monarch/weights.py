"""Blocks of a Monarch matrix as the packed matrices of its groups.

The order of the columns of a product is free. That of the first makes the exchange after it a
choice between registers lane by lane; that of the second makes the outputs meet their lanes by one
rotation of each register. `exchange` says how. Values are put into these orders by
products with permutation matrices: gathers of single entries are slow on TPU.
"""

import jax
import jax.numpy as jnp

from structlayers.butterfly.pallas_tpu.chain import LANES
from structlayers.butterfly.pallas_tpu.monarch.groups import Groups


def pack(groups: Groups, blocks1: jax.Array, blocks2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrices of both factors, transposed; linear in the blocks.

    Args:
        groups: sizes.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`.

    Returns:
        `(G, inputs, middle)` and `(G, middle, outputs)`.
    """
    return _pack_first(groups, blocks1), _pack_second(groups, blocks2)


def _pack_first(groups: Groups, blocks: jax.Array) -> jax.Array:
    count, (_, q, p) = groups.count, blocks.shape
    group, lane = _grid(count, LANES)
    # lane a G + e of group i is value a G + (i + e) mod G of its run
    place = lane // count * count + (group + lane) % count
    runs = blocks.reshape(count, -1, LANES, p)
    ordered = _einsum("gnc,gjcp->gpjn", _permutation(place, LANES, blocks.dtype), runs)
    ordered = ordered.reshape(count, 1, p, groups.middle)
    copy, value = _grid(groups.inputs // p, groups.middle)
    inside = (copy == value // q)[None, :, None]
    return jnp.where(inside, ordered, jnp.zeros_like(ordered)).reshape(count, -1, groups.middle)


def _pack_second(groups: Groups, blocks2: jax.Array) -> jax.Array:
    count, (blocks, s, r) = groups.count, blocks2.shape
    copies = blocks // count
    # outputs (t, v) of a group lie at lane v G + t + i modulo 128 of their run; they are the
    # outputs (s, b) of its blocks i + G b
    group, lane = _grid(count, LANES)
    v, t = jnp.divmod((lane - group) % LANES, count)
    output, copy = jnp.divmod(t * (LANES // count) + v, copies)
    high = LANES // copies
    runs = blocks2.reshape(copies, count, s // high, high, r).transpose(1, 2, 0, 3, 4)
    runs = runs.reshape(count, -1, LANES, r)
    order = _permutation(copy * high + output, LANES, blocks2.dtype)
    ordered = _einsum("gnc,gjcr->gjnr", order, runs).reshape(count, groups.outputs, r)

    # row (r b e) of group i holds a value of first group (i - e) mod G
    group, row = _grid(count, groups.middle)
    low, own = jnp.divmod(row // count, copies)
    place = (group - row) % count * (r // count) + low
    packed = _einsum("gmr,gnr->gmn", _permutation(place, r, blocks2.dtype), ordered)
    copy = jnp.tile(copy, (1, groups.outputs // LANES))
    return jnp.where(own[:, :, None] == copy[:, None, :], packed, jnp.zeros_like(packed))


def _grid(rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """Row and column of every place; computed, for constants would stay in the partitioned call."""
    return jnp.arange(rows)[:, None], jnp.arange(columns)[None]


def _permutation(place: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    """Matrices `(G, n, size)` that take entry n from `place[g, n]`."""
    return (place[..., None] == jnp.arange(size)[None, None]).astype(dtype)


def _einsum(equation: str, order: jax.Array, values: jax.Array) -> jax.Array:
    # exact: every sum has one term, and the highest precision keeps all bits of float32
    return jnp.einsum(equation, order, values, precision=jax.lax.Precision.HIGHEST)

"""Sums of log gates over intervals of time, none of them a difference of cumulated sums.

A weight between two rows of a sequence is `exp` of the gates between them. Written as a difference
of sums from the start of a chunk, it loses all digits after one strong gate (-200 leaves an error
of 1e-5 in every later weight), and is undefined after a gate of -inf. The sums here are formed by
doubling, from disjoint intervals, so they are relatively exact and all weights are at most 1.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def with_resets(
    log_gate: jax.Array | None, resets: jax.Array | None, dtype: DTypeLike = jnp.float32
) -> jax.Array | None:
    """The gates, -inf where a sequence begins: the state before it is forgotten.

    Args:
        log_gate: `(*B, T, G, K)` or `(*B, T, G, 1)`; None is no gate.
        resets: bool `(*B, T)`, or None.
        dtype: of gates where there were none.

    Returns:
        Gates of the shape of `log_gate`; `(*B, T, 1, 1)` where there were resets only.

    Example:
        >>> with_resets(None, jnp.array([False, True]))[:, 0, 0].tolist()
        [0.0, -inf]
    """
    if resets is None:
        return log_gate
    resets = resets[..., None, None]
    if log_gate is None:
        log_gate = jnp.zeros(resets.shape, dtype)
    return jnp.where(resets, jnp.full((), -jnp.inf, log_gate.dtype), log_gate)


def pairs(blocks: jax.Array) -> jax.Array:
    """Neighbouring blocks side by side: `(..., J, m, D)` to `(..., J/2, 2, m, D)`."""
    *lead, count, size, width = blocks.shape
    return blocks.reshape(*lead, count // 2, 2, size, width)


def interval_sums(
    log_gate: jax.Array, chunk_size: int
) -> tuple[list[tuple[jax.Array, jax.Array]], tuple[jax.Array, jax.Array]]:
    """Sums of the gates on both sides of every split, for blocks of 1, 2, 4, ... rows.

    A row i in the right half of a block of 2m and a row j in its left half are joined by
    `prefix[i] + suffix[j]`: the gates from the split to i, and those after j up to the split.

    Args:
        log_gate: `(..., T, D)`, T a multiple of `chunk_size`.
        chunk_size: power of two.

    Returns:
        For each m = 1, 2, ..., chunk_size / 2 the pair (prefix of right halves, suffix of left
        halves), each `(..., T / 2m, m, D)`; and the pair (prefix, suffix) of whole chunks, each
        `(..., T / chunk_size, chunk_size, D)`: from the chunk's start to a row, that row's gate
        included, and after a row to the chunk's end.

    Example:
        >>> levels, (prefix, suffix) = interval_sums(-jnp.arange(4.0)[:, None], 4)
        >>> prefix.ravel().tolist(), suffix.ravel().tolist()
        ([-0.0, -1.0, -3.0, -6.0], [-6.0, -5.0, -3.0, 0.0])
    """
    levels = []
    prefix = log_gate[..., None, :]
    suffix = jnp.zeros_like(prefix)
    while prefix.shape[-2] < chunk_size:
        prefixes, suffixes = pairs(prefix), pairs(suffix)
        left, right = prefixes[..., 0, :, :], prefixes[..., 1, :, :]
        before, after = suffixes[..., 0, :, :], suffixes[..., 1, :, :]
        levels.append((right, before))
        # the last row of a prefix is the sum over its block
        prefix = jnp.concatenate([left, right + left[..., -1:, :]], axis=-2)
        suffix = jnp.concatenate([before + right[..., -1:, :], after], axis=-2)
    return levels, (prefix, suffix)


def pairwise_sums(levels: list[tuple[jax.Array, jax.Array]], prefix: jax.Array) -> jax.Array:
    """Sums of a gate of one channel between all rows of a chunk: after j up to i, -inf for j > i.

    Args:
        levels: from `interval_sums` of `(..., T, 1)`.
        prefix: the same function's `(..., T / C, C, 1)`, for its shape.

    Returns:
        `(..., T / C, C, C)`, i before j.

    Example:
        >>> levels, (prefix, _) = interval_sums(jnp.array([[-4.0], [-1.0]]), 2)
        >>> pairwise_sums(levels, prefix).tolist()
        [[[0.0, -inf], [-1.0, 0.0]]]
    """
    *lead, count, size, _ = prefix.shape
    sums = jnp.zeros((*lead, count * size, 1, 1), prefix.dtype)
    for after, suffix in levels:
        left, right = jnp.moveaxis(pairs(sums), -3, 0)
        below = after + jnp.swapaxes(suffix, -1, -2)
        upper = jnp.concatenate([left, jnp.full_like(left, -jnp.inf)], axis=-1)
        sums = jnp.concatenate([upper, jnp.concatenate([below, right], axis=-1)], axis=-2)
    return sums


def decay_of(log_decays: Sequence[jax.Array]) -> jax.Array:
    """What is left of a state, `exp(a) * exp(b)`, by its log decays.

    Args:
        log_decays: a `(..., K, 1)`, b `(..., 1, V)`, or one of both.

    Example:
        >>> decay_of([jnp.zeros((2, 1)), jnp.full((1, 1), -jnp.inf)]).tolist()
        [[0.0], [0.0]]
    """
    first, *others = (jnp.exp(x) for x in log_decays)
    return functools.reduce(jnp.multiply, others, first)


def sums_after(log_decay: jax.Array, axis: int) -> jax.Array:
    """For every entry along an axis the sum of those after it, which leaves out its own.

    Example:
        >>> sums_after(jnp.array([-jnp.inf, -2.0, -1.0]), 0).tolist()
        [-3.0, -1.0, 0.0]
    """
    shifted = jnp.roll(log_decay, -1, axis)
    index = jax.lax.broadcasted_iota(jnp.int32, shifted.shape, axis % shifted.ndim)
    shifted = jnp.where(index == shifted.shape[axis] - 1, 0, shifted)
    return jnp.flip(jnp.cumsum(jnp.flip(shifted, axis), axis), axis)


def decayed_sum(states: jax.Array, log_decays: Sequence[jax.Array], axis: int) -> jax.Array:
    """What a row of states adds up to, each decayed by all after it: `sum_n decay(m > n) * S_n`.

    Args:
        states: `(..., K, V)` with N states along `axis`.
        log_decays: `(..., K, 1)` and `(..., 1, V)`, or one of both: what each does to those before.
        axis: an axis in front of K.

    Returns:
        As `states`, without `axis`.

    Example:
        >>> states, halves = jnp.ones((3, 1, 1)), jnp.full((3, 1, 1), jnp.log(0.5))
        >>> decayed_sum(states, [halves], 0).item()
        1.75
    """
    return jnp.sum(decay_of([sums_after(x, axis) for x in log_decays]) * states, axis)

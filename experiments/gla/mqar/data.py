"""Multi-query associative recall: pairs of keys and values, then every key once more.

tokens   k1 v1 k2 v2 k3 v3  0  0 k2  0 k1  0  0  0  0  0 k3  0
answers                          v2    v1                v3
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_PIECE = 1000  # examples drawn at once


class Examples(NamedTuple):
    """Sequences, the places of the queries, and what is to be recalled there.

    Attributes:
        tokens: `(count, T)` int32.
        places: `(count, P)` int32, the places of the P queries in T; any order.
        answers: `(count, P)` int32, the value of each query's key.
    """

    tokens: jax.Array
    places: jax.Array
    answers: jax.Array


def draw_examples(
    key: jax.Array,
    count: int,
    *,
    length: int,
    pairs: int,
    vocab_size: int,
    power: float = 0.01,
    random_filler: bool = False,
) -> Examples:
    """Draws examples of multi-query associative recall.

    The first 2 P tokens are pairs of a key of `1 .. vocab_size/2 - 1` and a value of
    `vocab_size/2 .. vocab_size - 1`, neither twice in an example. Of the rest, every second place
    may hold a query: place `2 P + 2 i` with weight `(i + 1)^(power - 1)`, so that most queries come
    soon. Each key is asked once. Answers are not among the tokens.

    Args:
        key: random key.
        count: number of examples.
        length: tokens T of an example, even.
        pairs: number P of pairs, at most a quarter of the tokens.
        vocab_size: number of words, even.
        power: 1 spreads queries evenly.
        random_filler: whether places without a query hold words at random in place of word 0.

    Returns:
        The examples.

    Raises:
        ValueError: sizes that do not fit.

    Example:
        >>> found = draw_examples(jax.random.key(0), 5, length=16, pairs=2, vocab_size=12)
        >>> found.tokens.shape, found.answers.shape, bool((found.places >= 4).all())
        ((5, 16), (5, 2), True)

    References:
        Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
        arXiv:2312.04927, section 4; the law of the places and word 0 as in the released code,
        github.com/HazyResearch/zoology (zoology/data/multiquery_ar.py).
    """
    check_sizes(length, pairs, vocab_size)
    half, room = vocab_size // 2, length // 2 - pairs
    log_weights = (power - 1) * jnp.log(jnp.arange(1, room + 1, dtype=jnp.float32))

    def draw(key: jax.Array) -> Examples:
        for_keys, for_values, for_places, for_filler = jax.random.split(key, 4)
        keys = 1 + _choose(for_keys, jnp.zeros(half - 1), pairs)
        values = half + _choose(for_values, jnp.zeros(vocab_size - half), pairs)
        places = 2 * pairs + 2 * _choose(for_places, log_weights, pairs)
        if random_filler:
            tokens = jax.random.randint(for_filler, (length,), 0, vocab_size)
        else:
            tokens = jnp.zeros(length, jnp.int32)
        context = jnp.stack([keys, values], axis=-1).reshape(-1)
        tokens = tokens.at[: 2 * pairs].set(context).at[places].set(keys)
        return Examples(tokens, places, values)

    return jax.lax.map(draw, jax.random.split(key, count), batch_size=_PIECE)


def check_sizes(length: int, pairs: int, vocab_size: int) -> None:
    """Refuses sizes that leave no room.

    Raises:
        ValueError: names the argument, its value and what is wanted.
    """
    if length % 2 or pairs < 1 or 4 * pairs > length:
        raise ValueError(
            f"length must be even and at least four times pairs, got {length} and {pairs}"
        )
    if vocab_size % 2 or vocab_size // 2 - 1 < pairs:
        raise ValueError(
            f"vocab_size must be even and half of it above pairs = {pairs}, got {vocab_size}"
        )


def _choose(key: jax.Array, log_weights: jax.Array, count: int) -> jax.Array:
    """Indices without replacement, one after the other by their weights (Gumbel's trick)."""
    noise = jax.random.gumbel(key, log_weights.shape, jnp.float32)
    return jax.lax.top_k(log_weights + noise, count)[1].astype(jnp.int32)

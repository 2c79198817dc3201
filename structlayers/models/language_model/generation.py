"""Continuations of a batch of prompts, by one compiled loop."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import is_known, require_choice, require_positive
from structlayers.gla import states_in_place
from structlayers.gla.layers.timewise import counted, time_index
from structlayers.models.language_model.model import LanguageModel, LanguageModelCache
from structlayers.models.language_model.sampling import Sampler

_GREEDY = Sampler(temperature=0)


def align_left(tokens: ArrayLike, lengths: ArrayLike) -> jax.Array:
    """Moves prompts padded at the left to the left; the padding goes behind.

    Args:
        tokens: `(*B, T)`, the last `lengths` of which count.
        lengths: integers `(*B,)` from 0 to T.

    Returns:
        `(*B, T)`, the first `lengths` of which count.

    Raises:
        ValueError: another shape, or known lengths out of range.
        TypeError: lengths that are not integers.

    Example:
        >>> align_left(jnp.array([[0, 0, 7, 8], [1, 2, 3, 4]]), jnp.array([2, 4])).tolist()
        [[7, 8, 0, 0], [1, 2, 3, 4]]
    """
    tokens = jnp.asarray(tokens)
    counts, _ = counted(lengths, tokens.shape)
    index = (time_index(tokens.shape) - counts[..., None]) % max(tokens.shape[-1], 1)
    return jnp.take_along_axis(tokens, index, axis=-1)


def generate(
    model: LanguageModel,
    prompts: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    max_new_tokens: int,
    sampler: Sampler = _GREEDY,
    key: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    padding: str = "right",
) -> tuple[jax.Array, jax.Array]:
    """Continues prompts word by word.

    The prompts are read at once, then one `lax.while_loop` draws a word, writes it and reads it,
    until all sequences have ended. Compiled once for each shape and each set of options.

    Args:
        model: the model.
        prompts: integers `(B, T)` of the vocabulary.
        lengths: integers `(B,)` from 1 to T, the tokens that count in each prompt; None is T.
        max_new_tokens: N, the most words to add.
        sampler: draws words; the default takes the largest logit.
        key: random key; not needed where the sampler is greedy. A sequence's words depend on its
            place in the batch, not on the other sequences.
        eos_id: the word that ends a sequence; None ends none before N.
        pad_id: what stands after the end.
        padding: on which side of prompts the tokens stand that do not count, "right" or "left".

    Returns:
        int32 `(B, N)`, the new words, the ending one included; and int32 `(B,)`, how many of them
        there are.

    Raises:
        ValueError: another shape, lengths out of range, known words or an `eos_id` outside the
            vocabulary, another padding, or no key where one is needed.
        TypeError: prompts that are not integers.

    Example:
        >>> from flax import nnx
        >>> from structlayers.models import LanguageModelConfig
        >>> config = LanguageModelConfig(vocab_size=50, features=16, num_layers=1, num_heads=2)
        >>> model = LanguageModel(config, rngs=nnx.Rngs(0))
        >>> words, counts = generate(model, jnp.array([[3, 1, 4]]), max_new_tokens=2)
        >>> words.shape, counts.tolist()
        ((1, 2), [2])
    """
    prompts = jnp.asarray(prompts)
    if prompts.ndim != 2 or 0 in prompts.shape:
        raise ValueError(f"prompts must have shape (B, T) with B, T >= 1, got {prompts.shape}")
    counts, valid = counted(lengths, prompts.shape)
    if is_known(counts) and bool(jnp.any(counts < 1)):
        raise ValueError(f"lengths must be at least 1, got {counts.tolist()}")
    require_positive("max_new_tokens", max_new_tokens)
    require_choice("padding", padding, ("right", "left"))
    if key is None and not sampler.is_greedy:
        raise ValueError("key must be given where temperature is above 0")
    if padding == "left":
        prompts = align_left(prompts, counts)
    _check_words(prompts, valid, eos_id, model.config.vocab_size)
    return _generate(
        model,
        prompts,
        counts,
        key,
        count=max_new_tokens,
        sampler=sampler,
        eos_id=eos_id,
        pad_id=pad_id,
    )


def _check_words(
    prompts: jax.Array, valid: jax.Array | None, eos_id: int | None, vocab_size: int
) -> None:
    """Refuses words that the model does not have: their logits would be NaN, and word 0 drawn."""
    if eos_id is not None and not 0 <= eos_id < vocab_size:
        raise ValueError(f"eos_id must be from 0 to {vocab_size - 1}, got {eos_id}")
    if is_known(prompts) and (valid is None or is_known(valid)):
        outside = (prompts < 0) | (prompts >= vocab_size)
        outside = outside if valid is None else outside & valid
        if bool(jnp.any(outside)):
            raise ValueError(
                f"prompts must hold words from 0 to {vocab_size - 1}, got {prompts[outside][0]}"
            )


# index of the next word, words, counts, which have ended, the last words, cache
type _Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, LanguageModelCache]


@functools.partial(jax.jit, static_argnames=("count", "sampler", "eos_id", "pad_id"))
def _generate(
    model: LanguageModel,
    prompts: jax.Array,
    lengths: jax.Array,
    key: jax.Array | None,
    *,
    count: int,
    sampler: Sampler,
    eos_id: int | None,
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
    batch, time = prompts.shape

    def draw(
        i: jax.Array, words: jax.Array, ended: jax.Array, logits: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Writes word i of every sequence, and says which have ended."""
        step_key = None if key is None else jax.random.fold_in(key, i)
        word = jnp.where(ended, pad_id, sampler(step_key, logits))
        words = words.at[:, i].set(word)
        return words, ended if eos_id is None else ended | (word == eos_id)

    def proceed(carry: _Carry) -> jax.Array:
        i, _, _, ended, _ = carry
        return (i < count) & ~jnp.all(ended)

    def body(carry: _Carry) -> _Carry:
        i, words, counts, ended, cache = carry
        with states_in_place():
            logits, cache = model.step(words[:, i - 1], cache)
        counts = counts + jnp.where(ended, 0, 1)
        words, ended = draw(i, words, ended, logits)
        return i + 1, words, counts, ended, cache

    logits, cache = model.prefill(
        prompts, model.initial_cache(batch, max_length=time + count), lengths=lengths
    )
    empty = jnp.full((batch, count), pad_id, jnp.int32)
    words, ended = draw(jnp.int32(0), empty, jnp.zeros(batch, bool), logits)
    first = jnp.ones(batch, jnp.int32)
    _, words, counts, _, _ = jax.lax.while_loop(
        proceed, body, (jnp.int32(1), words, first, ended, cache)
    )
    return words, counts

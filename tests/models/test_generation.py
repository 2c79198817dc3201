"""generate: greedy words, different prompts together, endings; samplers' distributions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers._core.dispatch import assume_platform
from structlayers.models import (
    LanguageModel,
    LanguageModelConfig,
    Sampler,
    align_left,
    generate,
)
from structlayers.models.language_model import generation
from tests.models.cases import MIXERS, small_model


@pytest.fixture
def prompts(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 40, (3, 6))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return small_model(mixer="softmax", num_layers=1)


@pytest.mark.parametrize("name", ["gla, grouped, convolution", "retention", "hybrid, grouped"])
def test_greedy_words_are_those_of_the_forward_pass(name, prompts):
    """For prompts of different lengths, with the padding on either side."""
    model, lengths = small_model(**MIXERS[name]), np.array([6, 4, 1])
    words, counts = generate(model, prompts, lengths, max_new_tokens=4)
    assert counts.tolist() == [4, 4, 4]
    tokens = np.zeros((3, 10), int)
    for row, prompt, length, new in zip(tokens, prompts, lengths, words, strict=True):
        row[: length + 4] = [*prompt[:length], *new]
    likeliest = np.argmax(jax.jit(lambda m, t: m(t))(model, tokens), axis=-1)
    for b, length in enumerate(lengths):
        np.testing.assert_array_equal(words[b], likeliest[b, length - 1 : length + 3])
    rolled = np.stack([np.roll(row, 6 - n) for row, n in zip(prompts, lengths, strict=True)])
    left, _ = generate(model, rolled, lengths, max_new_tokens=4, padding="left")
    np.testing.assert_array_equal(left, words)


@pytest.mark.pallas
def test_the_loop_writes_large_states_in_place_on_gpus():
    """One launch a layer; the prompt itself is read by XLA."""
    config = LanguageModelConfig(
        vocab_size=32, features=2048, num_layers=2, hidden_features=32, dtype=jnp.bfloat16
    )
    graph, state = nnx.split(nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0))))

    def run(state: nnx.State, prompts: jax.Array) -> Any:
        return generate(nnx.merge(graph, state), prompts, max_new_tokens=4)

    prompts = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    with assume_platform("gpu"):
        text = jax.jit(run).trace(state, prompts).lower(lowering_platforms=("cuda",)).as_text()
    aliased = "output_operand_alias<output_tuple_indices = [1], operand_index = 4"
    assert text.count("custom_call @mosaic_gpu") == text.count(aliased) == 2


def test_sequences_end(model, prompts):
    free, _ = generate(model, prompts, max_new_tokens=6)
    end = int(free[0, 2])
    words, counts = generate(model, prompts, max_new_tokens=6, eos_id=end, pad_id=39)
    for got, count, want in zip(words, counts, np.asarray(free), strict=True):
        ending = np.flatnonzero(want == end)
        length = ending[0] + 1 if len(ending) else 6
        assert count == length
        np.testing.assert_array_equal(got, [*want[:length], *[39] * (6 - length)])
    assert counts[0] <= 3


def test_the_key_decides_and_one_word_is_enough(model, prompts):
    def draw(seed: int) -> np.ndarray:
        words, _ = generate(
            model, prompts, max_new_tokens=5, sampler=Sampler(2.0), key=jax.random.key(seed)
        )
        return np.asarray(words)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.any(draw(0) != draw(1))
    words, counts = generate(model, prompts, max_new_tokens=1)
    assert (words.shape, counts.tolist()) == ((3, 1), [1, 1, 1])


def test_lengths_and_keys_compile_nothing_anew(model, prompts):
    loop: Any = generation._generate

    def run(seed: int, lengths: list[int]) -> int:
        sampler, key = Sampler(2.0), jax.random.key(seed)
        generate(model, prompts, np.array(lengths), max_new_tokens=5, sampler=sampler, key=key)
        return loop._cache_size()

    assert run(0, [6, 2, 3]) == run(1, [1, 5, 6])


def test_inside_another_jit(model, prompts):
    run = jax.jit(lambda m, p, n: generate(m, p, n, max_new_tokens=1)[0])
    lengths = np.array([6, 2, 3])
    words, _ = generate(model, prompts, lengths, max_new_tokens=1)
    np.testing.assert_array_equal(run(model, prompts, lengths), words)


PROBABILITIES = np.array([0.4, 0.05, 0.3, 0.2, 0.05])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2 / np.sum(PROBABILITIES**2)),
        ({"temperature": 2}, PROBABILITIES**0.5 / np.sum(PROBABILITIES**0.5)),
        ({"top_k": 2}, np.array([4, 0, 3, 0, 0]) / 7),
        ({"top_k": 9}, PROBABILITIES),
        ({"top_p": 0.35}, np.array([1, 0, 0, 0, 0])),
        ({"top_p": 0.45}, np.array([4, 0, 3, 0, 0]) / 7),
        ({"top_p": 0.75}, np.array([4, 0, 3, 2, 0]) / 9),
        ({"top_p": 1}, PROBABILITIES),
        # of the first three alone the probabilities are 4/9, 3/9, 2/9
        ({"top_k": 3, "top_p": 0.7}, np.array([4, 0, 3, 0, 0]) / 7),
        # words that tie with the last one kept are kept
        ({"top_k": 4}, PROBABILITIES),
        ({"temperature": 0}, np.array([1, 0, 0, 0, 0])),
    ],
)
def test_samplers_have_their_distribution(options, expected):
    sampler = Sampler(**options)
    logits = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)) + 3
    words = sampler(jax.random.key(5), jnp.broadcast_to(logits, (20000, 5)))
    assert words.dtype == jnp.int32
    found = np.bincount(words, minlength=5) / 20000
    # five standard deviations
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / np.sqrt(20000))
    assert np.all(found[expected == 0] == 0)


def test_samplers_take_batches_and_half_precision():
    logits = jnp.asarray([[[0.0, 5.0, 1.0]], [[9.0, 5.0, 1.0]]], jnp.bfloat16)
    sampler = Sampler(temperature=0.5, top_k=2, top_p=0.5)
    assert sampler(jax.random.key(0), logits).tolist() == [[1], [0]]


def test_align_left():
    out = align_left(np.array([[0, 0, 7], [1, 2, 3], [9, 9, 9]]), np.array([1, 3, 0]))
    assert out.tolist() == [[7, 0, 0], [1, 2, 3], [9, 9, 9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_samplers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (np.ones(3, int), {}, r"prompts must have shape \(B, T\)"),
        (np.ones((2, 0), int), {}, r"prompts must have shape \(B, T\)"),
        (np.ones((2, 3), int), {"lengths": np.array([0, 1])}, "lengths must be at least 1"),
        (np.ones((2, 3), int), {"lengths": np.array([4, 1])}, "lengths must be from 0 to T = 3"),
        (np.ones((2, 3), int), {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        (np.ones((2, 3), int), {"padding": "both"}, "padding must be one of 'right', 'left'"),
        (np.ones((2, 3), int), {"sampler": Sampler(1.0)}, "key must be given"),
        (np.ones((2, 3), int), {"eos_id": 40}, "eos_id must be from 0 to 39, got 40"),
        (np.array([[1, -2]]), {}, "prompts must hold words from 0 to 39, got -2"),
        (np.array([[1, 40]]), {"lengths": np.array([2])}, "words from 0 to 39, got 40"),
        (np.array([[40, 1]]), {"lengths": np.array([1])}, "words from 0 to 39, got 40"),
    ],
)
def test_bad_calls_are_refused(model, prompts, options, message):
    arguments: dict[str, Any] = {"max_new_tokens": 2} | options
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, **arguments)


def test_words_that_are_no_integers_are_refused(model):
    with pytest.raises(TypeError, match="tokens must be integers"):
        generate(model, np.ones((2, 3), np.float32), max_new_tokens=1)
    with pytest.raises(ValueError, match="key must be given"):
        Sampler()(None, jnp.zeros(3))


@pytest.mark.parametrize("mixer", ["gla", "retention", "softmax"])
def test_padding_need_not_be_a_word(mixer):
    model = small_model(mixer=mixer, num_layers=1)
    lengths = np.array([1, 2])

    def run(padding: int, side: str) -> jax.Array:
        prompts = np.array([[3, padding] if side == "right" else [padding, 3], [4, 5]])
        return generate(model, prompts, lengths, max_new_tokens=3, padding=side)[0]

    expected = run(0, "right")
    np.testing.assert_array_equal(run(-100, "right"), expected)
    np.testing.assert_array_equal(run(40, "left"), expected)

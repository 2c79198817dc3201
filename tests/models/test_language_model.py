"""LanguageModel: decoding equals the forward pass for every mixer; segments, remat, dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models import LanguageModel, align_left
from structlayers.models.language_model import TOKEN_MIXERS
from structlayers.testing import assert_close
from tests.models.cases import MIXERS, small_config, small_model


@pytest.fixture(params=MIXERS.values(), ids=list(MIXERS))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return small_model(**request.param)


@pytest.fixture
def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 40, (3, 8))


@jax.jit
def prefill(model: LanguageModel, tokens: jax.Array, lengths: jax.Array) -> tuple:
    return model.prefill(tokens, model.initial_cache(3, max_length=12), lengths=lengths)


step = jax.jit(lambda model, token, cache: model.step(token, cache))
forward = jax.jit(lambda model, tokens: model(tokens))


def test_prefill_then_steps_equal_the_whole(model, tokens):
    whole = forward(model, tokens)
    assert (whole.shape, whole.dtype) == ((3, 8, 40), jnp.float32)
    logits, cache = prefill(model, tokens[:, :5], np.full(3, 5))
    assert_close("prompt", logits, whole[:, 4], 5e-6)
    for t in range(5, 8):
        logits, cache = step(model, tokens[:, t], cache)
        assert_close(f"token {t}", logits, whole[:, t], 5e-6)


def test_a_padded_batch_equals_its_samples(model, tokens):
    """Padding at the right, and at the left after `align_left`, whatever stands there."""
    lengths = np.array([7, 3, 1])
    right, cache = prefill(model, tokens, lengths)
    rolled = np.stack(
        [np.roll(row, 8 - length) for row, length in zip(tokens, lengths, strict=True)]
    )
    left, _ = prefill(model, align_left(rolled, lengths), lengths)
    np.testing.assert_array_equal(left, right)
    after, _ = step(model, np.array([7, 7, 7]), cache)
    rows = np.arange(3)
    # each row goes on with the word 7, and what follows has no effect
    tokens[rows, lengths] = 7
    whole = forward(model, tokens)
    assert_close("prompts", right, whole[rows, lengths - 1], 5e-6)
    assert_close("step", after, whole[rows, lengths], 5e-6)


def test_segments_are_sequences(model, tokens):
    ids = np.repeat([3, 5], [3, 5])[None].repeat(3, 0)
    out = jax.jit(lambda model, tokens, ids: model(tokens, segment_ids=ids))(model, tokens, ids)
    assert_close("first", out[:, :3], forward(model, tokens)[:, :3], 5e-6)
    second = forward(model, np.roll(tokens, -3, axis=1))[:, :5]
    assert_close("second", out[:, 3:], second, 5e-6)


@pytest.mark.parametrize("remat", [None, "nothing_saveable"])
def test_features_at_some_places_alone(tokens, remat):
    """Values and gradients are those of all places, of which the rest is left out."""
    model = small_model(mixer="softmax", remat=remat)
    places = np.array([[0, 7, 7], [3, 1, 2], [4, 4, 0]])
    graph, state = nnx.split(model)

    def value(state: nnx.State, places: np.ndarray | None) -> Any:
        hidden = nnx.merge(graph, state).hidden(tokens, places=places)
        if places is None:
            hidden = jnp.take_along_axis(hidden, chosen, axis=1)
        return jnp.sum(jnp.sin(hidden)), hidden

    chosen = places[..., None]
    run = jax.jit(jax.grad(value, has_aux=True))
    (gradients, found), (wanted_gradients, wanted) = run(state, places), run(state, None)
    assert found.shape == (3, 3, 16)
    assert_close("features", found, wanted, 1e-6)
    jax.tree.map(lambda a, b: assert_close("gradient", a, b, 1e-5), gradients, wanted_gradients)


@pytest.mark.parametrize(
    ("places", "error", "message"),
    [
        (np.zeros((3, 1), np.float32), TypeError, "places must be integers, got float32"),
        (np.zeros((2, 1), int), ValueError, r"places must have shape \(3, 'P'\), got \(2, 1\)"),
        (np.zeros(3, int), ValueError, r"places must have shape \(3, 'P'\), got \(3,\)"),
    ],
)
def test_places_that_do_not_fit(tokens, places, error, message):
    with pytest.raises(error, match=message):
        small_model().hidden(tokens, places=places)


def test_places_are_refused_where_ranks_share_the_sequences(tokens):
    model = LanguageModel(small_config(sequence_axis="time"), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="places must be None with a sequence_axis"):
        model.hidden(tokens, places=np.zeros((3, 1), int))


def test_later_tokens_change_nothing_before(model, tokens):
    other = tokens.copy()
    other[:, 5:] = (other[:, 5:] + 1) % 40
    out, changed = forward(model, tokens), forward(model, other)
    np.testing.assert_array_equal(out[:, :5], changed[:, :5])
    assert np.all(np.any(out[:, 5:] != changed[:, 5:], axis=-1))


def test_tied_embeddings(tokens):
    model = small_model(mixer="softmax", tie_embeddings=True, num_layers=1)
    assert model.head is None
    expected = model.hidden(tokens) @ model.embedding.embedding[...].T
    assert_close("logits", model(tokens), expected, 1e-6)


def test_bfloat16(tokens):
    mixer = ("gla", "softmax")
    half, full = (small_model(mixer=mixer, dtype=dtype) for dtype in (jnp.bfloat16, None))
    out = forward(half, tokens)
    assert out.dtype == jnp.float32
    assert_close("logits", out, forward(full, tokens), 5e-2)
    again, _ = step(half, tokens[:, 0], half.initial_cache(3, max_length=8))
    assert_close("step", again, out[:, 0], 2e-2)


def test_gradients_of_a_frequent_word_add_up_in_float32():
    """2048 times one word: in bfloat16 the sum would stop to grow."""

    def gradient(dtype: Any) -> jax.Array:
        graphdef, state = nnx.split(small_model(num_layers=1, dtype=dtype))
        tokens = np.full((32, 64), 7)

        def loss(state: nnx.State) -> jax.Array:
            return jnp.sum(nnx.merge(graphdef, state).hidden(tokens)[..., :3].astype(jnp.float32))

        return jax.jit(jax.grad(loss))(state).embedding.embedding[...][7]

    assert_close("gradient", gradient(jnp.bfloat16), gradient(None), 3e-2)


def test_remat_changes_memory_and_no_number(tokens):
    def gradient(model: LanguageModel) -> tuple[Any, Any]:
        graphdef, state = nnx.split(model)

        def loss(state: nnx.State) -> jax.Array:
            return jnp.sum(nnx.merge(graphdef, state)(tokens) ** 2)

        step = jax.jit(jax.grad(loss))
        return step(state), step.lower(state).as_text()

    (kept, text), (again, text_again) = (
        gradient(small_model(mixer="softmax", num_layers=1, remat=policy))
        for policy in (None, "dots_with_no_batch_dims_saveable")
    )
    assert_close("gradients", again, kept, 1e-5)
    assert "optimization_barrier" in text_again
    assert text != text_again


def test_a_mixer_of_ones_own(tokens, monkeypatch):
    class Nothing(nnx.Module):
        def __call__(self, x: jax.Array, *, segment_ids: Any = None) -> jax.Array:
            return jnp.zeros_like(x)

        def prefill(self, x: jax.Array, state: tuple, *, lengths: Any = None) -> tuple:
            return jnp.zeros_like(x), state

        def step(self, x: jax.Array, state: tuple) -> tuple:
            return jnp.zeros_like(x), state

        def initial_state(self, *batch: int, dtype: Any = None) -> tuple:
            return ()

    monkeypatch.setitem(TOKEN_MIXERS, "nothing", lambda config, rngs: Nothing())
    model = small_model(mixer=("nothing", "gla"))
    logits, _ = prefill(model, tokens, np.full(3, 8))
    assert_close("logits", logits, forward(model, tokens)[:, -1], 5e-6)


def test_names_stand_in_profiles(tokens):
    text = jax.jit(lambda m, t: m(t)).lower(small_model(mixer=("gla", "softmax")), tokens)
    text = text.as_text(debug_info=True)
    for name in ("LanguageModel", "GatedLinearAttention", "SoftmaxAttention", "SwiGLU"):
        assert f"structlayers.{name}" in text


def test_bad_inputs_are_refused(tokens):
    model = small_model(mixer="softmax", num_layers=1)
    cache = model.initial_cache(3, max_length=8)
    with pytest.raises(TypeError, match="tokens must be integers, got float32"):
        model(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"tokens must have shape \(\*B, T\)"):
        model(3)
    with pytest.raises(ValueError, match="lengths must be at least 1, got"):
        model.prefill(tokens, cache, lengths=np.array([3, 0, 1]))
    _, full = jax.jit(lambda m, t, c: m.prefill(t, c))(model, tokens, cache)
    with pytest.raises(ValueError, match="the cache has 8 places"):
        model.step(tokens[:, 0], full)
    for word in (40, -1):
        assert np.isnan(forward(model, np.array([1, word]))[1]).all()


def test_a_cache_of_another_model_or_batch_is_refused(tokens):
    one, two = (small_model(mixer="softmax", num_layers=n) for n in (1, 2))
    with pytest.raises(ValueError, match="cache must hold the states of 1 layers, got 2"):
        one.step(tokens[:, 0], two.initial_cache(3, max_length=8))
    cache = one.initial_cache(2, max_length=8)
    with pytest.raises(ValueError, match=r"state.keys must have shape \(3, S, 2, 8\), got \(2, 8"):
        one.prefill(tokens, cache)
    with pytest.raises(ValueError, match=r"state.keys must have shape \(3, S, 2, 8\), got \(2, 8"):
        one.step(tokens[:, 0], cache)


def test_the_config_is_hashable_and_kept():
    config = small_config(mixer=("gla", "softmax"))
    assert hash(config) == hash(small_config(mixer=("gla", "softmax")))
    assert LanguageModel(config, rngs=nnx.Rngs(0)).config is config

"""GatedLinearAttention: the definition, prefill and decoding, lengths, segments, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.gla import GatedLinearAttention, GatedLinearAttentionState
from structlayers.gla.layers import gates
from structlayers.testing import assert_close
from tests.gla.cases import log_sigmoid, recurrence

OPTIONS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "convolution": {"num_kv_heads": 1, "conv_size": 4},
    "one tap": {"conv_size": 1},
    "scalar gate": {"gate": "scalar", "num_kv_heads": 2},
    "constant gate": {"gate": "constant"},
    "no gate": {"gate": "none"},
}


@pytest.fixture(params=OPTIONS.values(), ids=list(OPTIONS))
def layer(request: pytest.FixtureRequest) -> GatedLinearAttention:
    return GatedLinearAttention(16, num_heads=4, chunk_size=8, rngs=nnx.Rngs(0), **request.param)


@pytest.fixture
def x(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(rng.standard_normal((3, 11, 16)), jnp.float32)


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def kinds(state: GatedLinearAttentionState) -> list[tuple]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]


def test_gates_of_logits_of_any_size():
    logits = np.array([-1e4, -88, -20, -1, -1e-6, 0, 1e-6, 1, 20, 88, 1e4], np.float32)
    values, slopes = jax.vmap(jax.value_and_grad(gates.log_sigmoid))(logits)
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(values, log_sigmoid(wide), rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(slopes, np.exp(log_sigmoid(-wide)), rtol=1e-6, atol=1e-37)


def test_the_layer_is_its_formula(x):
    """Projections, gate, recurrence, norm and output gate by hand in float64."""
    layer = GatedLinearAttention(16, num_heads=2, gate_logit_normalizer=4, rngs=nnx.Rngs(3))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(layer)))
    params["norm"]["scale"] = scale = np.linspace(0.5, 2, 8)
    nnx.update(layer, {"norm": {"scale": jnp.asarray(scale, jnp.float32)}})
    tokens = np.asarray(x[0], np.float64)
    q, k, v = (tokens @ params[name]["kernel"] for name in ("query", "key", "value"))
    logits = tokens @ params["gate_down"]["kernel"] @ params["gate_up"]["kernel"]
    gate = log_sigmoid(logits + params["gate_up"]["bias"]) / 4
    q, k, v, gate = (a.reshape(11, 2, -1) for a in (q, k, v, gate))
    out, _ = recurrence(q, k, v, gate, np.zeros(1), np.zeros((2, 4, 8)), 4**-0.5)
    out = out / np.sqrt(np.mean(out**2, axis=-1, keepdims=True) + 1e-6) * scale
    gated = swish(tokens @ params["output_gate"]["kernel"]) * out.reshape(11, 16)
    assert_close("layer", layer(x)[0], gated @ params["output"]["kernel"], 1e-6)


def test_about_four_d_squared_parameters():
    def count(features):
        layer = nnx.eval_shape(lambda: GatedLinearAttention(features, rngs=nnx.Rngs(0)))
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer)))

    # four d^2, the gate's low rank d 16 + 16 d/2, its bias d/2, the norm's scale d/4
    assert count(1024) == 4 * 1024**2 + 16 * 1024 + 16 * 512 + 512 + 256


def test_prefill_then_steps_equal_the_whole(layer, x):
    whole = layer(x)
    out, state = layer.prefill(x[:, :6])
    assert_close("prompt", out, whole[:, :6], 1e-6)
    step = jax.jit(lambda layer, x, state: layer.step(x, state))
    for t in range(6, 11):
        out, state = step(layer, x[:, t], state)
        assert_close(f"token {t}", out, whole[:, t], 2e-6)


def test_steps_from_nothing_equal_the_whole(layer, x):
    whole, (_, end) = layer(x), layer.prefill(x)

    @jax.jit
    def decode(layer, x):
        def body(state, token):
            out, state = layer.step(token, state)
            return state, out

        return jax.lax.scan(body, layer.initial_state(3), jnp.moveaxis(x, 1, 0))

    state, out = decode(layer, x)
    assert_close("outputs", jnp.moveaxis(out, 0, 1), whole, 2e-6)
    assert_close("state", state, end, 2e-6)


def test_prompts_of_different_lengths(layer, x, rng):
    """Each sample goes on as if its prompt had been alone; what stands behind it has no effect."""
    lengths = np.array([8, 2, 0])
    out, state = layer.prefill(x, lengths=lengths)
    token = jnp.asarray(rng.standard_normal((3, 16)), jnp.float32)
    after, _ = layer.step(token, state)
    later, _ = layer.prefill(token[:, None], state)
    for b, length in enumerate(lengths):
        alone = layer(jnp.concatenate([x[b, :length], token[b : b + 1]]))
        assert_close("prompt", out[b, :length], alone[:length], 2e-6)
        assert not np.any(out[b, length:])
        assert_close("step", after[b], alone[length], 2e-6)
        assert_close("second prefill", later[b, 0], alone[length], 2e-6)


def test_prefill_in_pieces_with_lengths(layer, x):
    whole = layer(x)
    _, state = layer.prefill(x[:, :7], lengths=np.array([7, 5, 1]))
    for b, done in enumerate((7, 5, 1)):
        own = jax.tree.map(lambda a, b=b: a[b], state)
        rest, _ = layer.prefill(x[b, done:], own)
        assert_close("rest", rest, whole[b, done:], 2e-6)


def test_segments_are_sequences(layer, x):
    ids = np.repeat([0, 1], [4, 7])[None].repeat(3, 0)
    out = layer(x, segment_ids=ids)
    assert_close("first", out[:, :4], layer(x[:, :4]), 2e-6)
    assert_close("second", out[:, 4:], layer(x[:, 4:]), 2e-6)


def test_the_state_is_a_pytree_of_fixed_size(layer, x):
    _, state = layer.prefill(x)
    assert isinstance(state, GatedLinearAttentionState)
    empty = layer.initial_state(3)
    assert kinds(state) == kinds(empty)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    _, nothing = layer.prefill(x[:, :0])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))


def test_bfloat16(layer, x):
    half = GatedLinearAttention(
        16,
        num_heads=4,
        num_kv_heads=layer.num_kv_heads,
        gate=layer.gate,
        conv_size=layer.conv_size,
        dtype=jnp.bfloat16,
        rngs=nnx.Rngs(0),
    )
    out, state = half.prefill(x)
    assert (out.dtype, state.recurrent.dtype) == (jnp.bfloat16, jnp.float32)
    assert kinds(state) == kinds(half.initial_state(3))
    assert_close("outputs", out, layer(x), 3e-2)
    again, _ = half.step(x[:, 0], half.initial_state(3))
    assert_close("step", again, out[:, 0], 1e-2)


def test_gradients_reach_the_state(layer, x):
    """Truncated backpropagation keeps the state; whole backpropagation goes through it."""

    @jax.jit
    def gradient(layer, x):
        def loss(x):
            _, state = layer.prefill(x[:, :6])
            out, _ = layer.prefill(x[:, 6:], state)
            return jnp.sum(out**2)

        return jax.grad(loss)(x)

    pieces = gradient(layer, x)
    whole = jax.jit(jax.grad(lambda x: jnp.sum(layer(x)[:, 6:] ** 2)))(x)
    assert np.any(pieces[:, :6] != 0)
    assert_close("gradient", pieces, whole, 5e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features must be at least 1"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads = 4, got 3"),
        ({"key_features": 10}, "key_features must be a multiple of num_heads = 4, got 10"),
        ({"value_features": 10}, "value_features must be a multiple of"),
        ({"gate_rank": 0}, "gate_rank must be at least 1"),
        ({"gate_logit_normalizer": 0}, "gate_logit_normalizer must be above 0"),
        ({"norm_epsilon": -1e-6}, "norm_epsilon must be at least 0, got -1e-06"),
        ({"conv_size": 0}, "conv_size must be at least 1"),
        ({"precision": "exact"}, "precision must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    arguments: dict[str, Any] = {"features": 16, "rngs": nnx.Rngs(0)} | options
    with pytest.raises(ValueError, match=message):
        GatedLinearAttention(**arguments)


def test_bad_inputs_are_refused(x):
    layer = GatedLinearAttention(16, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="param_dtype must be real floating point"):
        GatedLinearAttention(16, param_dtype=jnp.int32, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 16\)"):
        layer(x[..., :8])
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, T, 16\)"):
        layer(x[0, 0])
    with pytest.raises(ValueError, match=r"lengths must have shape \(\*B,\) = \(3,\)"):
        layer.prefill(x, lengths=np.array([1, 2]))
    with pytest.raises(ValueError, match="lengths must be from 0 to T = 11"):
        layer.prefill(x, lengths=np.array([1, 2, 12]))
    with pytest.raises(TypeError, match="lengths must hold integers"):
        layer.prefill(x, lengths=np.ones(3))
    with pytest.raises(ValueError, match="initial_state must have shape"):
        layer.prefill(x, layer.initial_state(2))


def test_states_of_another_layer_are_refused(x):
    """A layer with short convolutions would begin anew, one without would forget them."""
    plain, short = (GatedLinearAttention(16, conv_size=c, rngs=nnx.Rngs(0)) for c in (None, 4))
    for layer, other, counts in ((short, plain, "3 .*, got 0"), (plain, short, "0 .*, got 3")):
        state = other.initial_state(3)
        for call in (layer.prefill, lambda x, s, f=layer.step: f(x[:, 0], s)):
            with pytest.raises(ValueError, match=f"state.history must hold {counts}"):
                call(x, state)

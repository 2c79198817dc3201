"""Softmax attention, retention and SwiGLU by their formulas; states, lengths, segments."""

import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models import Retention, SoftmaxAttention, SwiGLU
from structlayers.testing import assert_close
from tests.models.cases import float64, rms_norm, rotate, swish

MAKE: dict[str, Any] = {
    "softmax": lambda: SoftmaxAttention(16, num_heads=4, rngs=nnx.Rngs(0)),
    "softmax, grouped": lambda: SoftmaxAttention(16, num_heads=4, num_kv_heads=2, rngs=nnx.Rngs(0)),
    "retention": lambda: Retention(16, num_heads=2, chunk_size=4, rngs=nnx.Rngs(0)),
}


@pytest.fixture(params=MAKE.values(), ids=list(MAKE))
def layer(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def x(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(rng.standard_normal((3, 9, 16)), jnp.float32)


apply = jax.jit(lambda layer, x: layer(x))
prefill = jax.jit(lambda layer, x, state, lengths: layer.prefill(x, state, lengths=lengths))
step = jax.jit(lambda layer, x, state: layer.step(x, state))


def empty(layer: Any, *batch: int) -> Any:
    size = {"max_length": 12} if isinstance(layer, SoftmaxAttention) else {}
    return layer.initial_state(*batch, **size)


def project(layer: nnx.Module, tokens: np.ndarray, *counts: int) -> tuple[np.ndarray, ...]:
    params = float64(layer)
    names = ("query", "key", "value")
    parts = (tokens @ params[name]["kernel"] for name in names)
    return tuple(a.reshape(len(tokens), count, -1) for a, count in zip(parts, counts, strict=True))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_softmax_attention_is_its_formula(x, groups):
    layer = SoftmaxAttention(16, num_heads=4, num_kv_heads=groups, rngs=nnx.Rngs(1))
    q, k, v = project(layer, np.asarray(x[0], np.float64), 4, groups, groups)
    k, v = (np.repeat(a, 4 // groups, axis=1) for a in (k, v))
    scores = np.einsum("thk,shk->hts", rotate(q), rotate(k)) / 2
    scores[:, np.triu(np.ones((9, 9), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("hts,shk->thk", weights, v).reshape(9, 16)
    assert_close("layer", layer(x)[0], out @ float64(layer)["output"]["kernel"], 1e-6)


def test_retention_is_its_formula(x):
    """The parallel form, equation 5 of the paper, without xPos' magnitudes."""
    layer = Retention(16, num_heads=2, rngs=nnx.Rngs(1))
    tokens, params = np.asarray(x[0], np.float64), float64(layer)
    q, k, v = project(layer, tokens, 2, 2, 2)
    assert (q.shape, v.shape) == ((9, 2, 8), (9, 2, 16))
    distance = np.arange(9)[:, None] - np.arange(9)
    decay = np.where(distance >= 0, (1 - 2.0 ** -np.array([5, 6]))[:, None, None] ** distance, 0)
    scores = np.einsum("thk,shk->hts", rotate(q), rotate(k)) * decay / np.sqrt(8)
    out = rms_norm(np.einsum("hts,shv->thv", scores, v), params["norm"]["scale"]).reshape(9, 32)
    gated = swish(tokens @ params["output_gate"]["kernel"]) * out
    assert_close("layer", layer(x)[0], gated @ params["output"]["kernel"], 1e-6)


def test_swiglu_is_its_formula(x):
    layer = SwiGLU(16, 20, rngs=nnx.Rngs(1))
    tokens, params = np.asarray(x, np.float64), float64(layer)
    gate, up = (tokens @ params[name]["kernel"] for name in ("gate", "up"))
    assert_close("layer", layer(x), (swish(gate) * up) @ params["down"]["kernel"], 1e-6)


def test_prefill_then_steps_equal_the_whole(layer, x):
    whole = apply(layer, x)
    out, state = prefill(layer, x[:, :3], empty(layer, 3), None)
    assert_close("prompt", out, whole[:, :3], 2e-6)
    out, state = prefill(layer, x[:, 3:6], state, None)
    assert_close("next piece", out, whole[:, 3:6], 2e-6)
    for t in range(6, 9):
        out, state = step(layer, x[:, t], state)
        assert_close(f"token {t}", out, whole[:, t], 2e-6)
    assert state.position.tolist() == [9, 9, 9]


def test_prompts_of_different_lengths(layer, x):
    """Each sample goes on as if its prompt had been alone."""
    lengths, rows = np.array([8, 2, 0]), np.arange(3)
    whole = apply(layer, x)
    # what stands behind a prompt has no effect
    behind = np.arange(9) >= lengths[:, None]
    out, state = prefill(layer, jnp.where(behind[..., None], 1.5, x), empty(layer, 3), lengths)
    assert_close("prompts", out, jnp.where(behind[..., None], 0, whole), 2e-6)
    after, _ = step(layer, x[rows, lengths], state)
    assert_close("step", after, whole[rows, lengths], 2e-6)


def test_segments_are_sequences(layer, x):
    ids = np.repeat([0, 1], [4, 5])[None].repeat(3, 0)
    out = jax.jit(lambda layer, x, ids: layer(x, segment_ids=ids))(layer, x, ids)
    assert_close("first", out[:, :4], apply(layer, x)[:, :4], 2e-6)
    second = apply(layer, jnp.roll(x, -4, axis=1))[:, :5]
    assert_close("second", out[:, 4:], second, 2e-6)


def test_states_keep_shapes_and_dtypes(layer, x):
    def kinds(state):
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]

    _, state = prefill(layer, x, empty(layer, 3), None)
    assert kinds(state) == kinds(empty(layer, 3)) == kinds(step(layer, x[:, 0], state)[1])


def test_more_tokens_than_places(x):
    layer = SoftmaxAttention(16, num_heads=2, rngs=nnx.Rngs(0))
    state = layer.initial_state(3, max_length=8)
    with pytest.raises(ValueError, match="the cache has 8 places, got tokens up to 9"):
        layer.prefill(x, state)
    out, _ = layer.prefill(x, state, lengths=np.array([8, 8, 3]))
    assert np.isfinite(out).all()
    # under jit the number of tokens is not known: what finds no place is NaN, not wrong
    out, _ = prefill(layer, x, state, None)
    assert_close("the first eight", out[:, :8], apply(layer, x)[:, :8], 2e-6)
    assert np.isnan(out[:, 8]).all()


def test_bfloat16(x):
    for make in (
        lambda dtype: SoftmaxAttention(16, num_heads=2, dtype=dtype, rngs=nnx.Rngs(0)),
        lambda dtype: Retention(16, num_heads=2, dtype=dtype, rngs=nnx.Rngs(0)),
        lambda dtype: SwiGLU(16, 24, dtype=dtype, rngs=nnx.Rngs(0)),
    ):
        out = apply(make(jnp.bfloat16), x)
        assert out.dtype == jnp.bfloat16
        assert_close("outputs", out, apply(make(None), x), 3e-2)


def test_attention_of_tokamax_where_it_is(x, monkeypatch):
    def make() -> SoftmaxAttention:
        return SoftmaxAttention(16, num_heads=2, attention="tokamax", rngs=nnx.Rngs(0))

    monkeypatch.setitem(sys.modules, "tokamax", None)
    with pytest.raises(ImportError, match="attention='tokamax' needs tokamax"):
        make()
    with pytest.raises(ValueError, match="attention must be one of 'jax', 'cudnn', 'tokamax'"):
        SoftmaxAttention(16, num_heads=2, attention="flash", rngs=nnx.Rngs(0))
    calls = []

    def attention(*args: Any, **options: Any) -> jax.Array:
        calls.append(sorted(options))
        return jax.nn.dot_product_attention(*args, **options)

    # stands in for the package: it takes the arguments of jax.nn's function
    package = types.SimpleNamespace(dot_product_attention=attention)
    monkeypatch.setitem(sys.modules, "tokamax", package)
    plain = SoftmaxAttention(16, num_heads=2, rngs=nnx.Rngs(0))
    assert_close("outputs", make()(x), plain(x), 1e-6)
    assert calls == [["is_causal", "mask"]]


def test_bad_inputs_are_refused(layer, x):
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 16\)"):
        layer(x[..., :8])
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, T, 16\)"):
        layer(x[0, 0])
    with pytest.raises(ValueError, match="lengths must be from 0 to T = 9"):
        layer.prefill(x, empty(layer, 3), lengths=np.array([10, 1, 1]))
    with pytest.raises(ValueError, match="segment_ids must have shape"):
        layer(x, segment_ids=np.zeros((3, 4), int))

"""GatedLinearAttention and the language model with time sharded over an axis of the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers.gla import GatedLinearAttention
from structlayers.models import LanguageModel, LanguageModelConfig
from structlayers.testing import assert_close

TIME = P(None, "time")


def sharded(fn: Any, in_specs: Any, out_specs: Any, check_vma: bool = True) -> Any:
    mesh = jax.make_mesh((4,), ("time",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    return jax.jit(
        jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma)
    )


def layers(**options: Any) -> tuple[GatedLinearAttention, GatedLinearAttention]:
    """The layer on one device, and the same parameters in the one of four ranks."""
    one, ranks = (
        GatedLinearAttention(
            8, num_heads=2, chunk_size=4, sequence_axis=axis, rngs=nnx.Rngs(0), **options
        )
        for axis in (None, "time")
    )
    return one, ranks


@pytest.fixture
def x(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(rng.standard_normal((3, 20, 8)), jnp.float32)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("conv_size", [None, 1, 4])
def test_training_equals_one_device(conv_size, check_vma, x, rng):
    """Convolutions that reach to the rank before, segments that begin at ranks and within."""
    one, ranks = layers(conv_size=conv_size, num_kv_heads=1)
    ids = np.stack([np.repeat([0, 1, 2], n) for n in ([5, 9, 6], [20, 0, 0], [7, 1, 12])])
    weights = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)

    def call(layer, x, ids):
        return layer(x, segment_ids=ids)

    def results(call, layer):
        def loss(layer, x):
            out = call(layer, x, ids)
            return jnp.vdot(out, weights), out

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(layer, x)

    spread = sharded(call, (P(), TIME, TIME), TIME, check_vma)
    (_, got), gradients = results(spread, ranks)
    (_, want), wanted = results(call, one)
    assert_close("outputs", got, want, 1e-6)
    assert_close("gradients", jax.tree.leaves(gradients), jax.tree.leaves(wanted), 5e-6)


@pytest.mark.parametrize("conv_size", [None, 4])
@pytest.mark.parametrize("lengths", [None, [20, 11, 2]])
@pytest.mark.parametrize("continued", [False, True])
def test_prefill_equals_one_device(continued, lengths, conv_size, x):
    """Prompts that end on any rank, also before the taps of a convolution are filled."""
    one, ranks = layers(conv_size=conv_size)
    state = one.prefill(x[:, :3])[1] if continued else None
    counts = None if lengths is None else np.array(lengths)
    run = sharded(
        lambda layer, x, state, counts: layer.prefill(x, state, lengths=counts),
        (P(), TIME, P(), P()),
        (TIME, P()),
    )
    out, after = run(ranks, x, state, counts)
    wanted, end = one.prefill(x, state, lengths=counts)
    assert_close("outputs", out, wanted, 1e-6)
    assert_close("state", after, end, 1e-6)
    token, _ = ranks.step(x[:, 0], after)
    assert_close("step", token, one.step(x[:, 0], end)[0], 1e-6)


def test_language_model(rng):
    def model(axis: str | None) -> LanguageModel:
        config = LanguageModelConfig(
            vocab_size=30, features=8, num_layers=2, num_heads=2, conv_size=3, sequence_axis=axis
        )
        return LanguageModel(config, rngs=nnx.Rngs(0))

    one, ranks = model(None), model("time")
    tokens = rng.integers(0, 30, (2, 12))
    logits = sharded(lambda model, tokens: model(tokens), (P(), TIME), TIME)(ranks, tokens)
    assert_close("logits", logits, one(tokens), 1e-6)
    cache, lengths = one.initial_cache(2, max_length=12), np.array([12, 4])
    run = sharded(
        lambda model, tokens, cache, lengths: model.prefill(tokens, cache, lengths=lengths),
        (P(), TIME, P(), P()),
        P(),
    )
    got = run(ranks, tokens, cache, lengths)
    assert_close("prefill", got, one.prefill(tokens, cache, lengths=lengths), 1e-6)


def test_what_cannot_be_sharded_is_refused(x):
    _, ranks = layers(conv_size=8)
    with pytest.raises(ValueError, match="axis_name must be an axis of an enclosing"):
        ranks(x)
    with pytest.raises(ValueError, match="at least conv_size - 1 = 7 tokens on every rank"):
        sharded(lambda layer, x: layer(x), (P(), TIME), TIME)(ranks, x)
    for mixer in ("softmax", "retention"):
        config = LanguageModelConfig(
            vocab_size=30, features=8, num_layers=1, num_heads=2, mixer=mixer, sequence_axis="time"
        )
        with pytest.raises(ValueError, match=f"sequence_axis must be None with mixer '{mixer}'"):
            LanguageModel(config, rngs=nnx.Rngs(0))

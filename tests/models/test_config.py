"""LanguageModelConfig: sizes of the papers' models, bad fields, sharding metadata."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers.models import LanguageModel, LanguageModelConfig
from tests.models.cases import small_config, small_model


@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("gla-340M", {}, 341.7),
        ("gla-1.3B", {}, 1366),
        # 4 d^2 for the mixer, 3 d h for the channels, two norms; the embedding once
        (
            "gla-340M",
            {"mixer": "softmax", "num_heads": 16},
            (24 * (4 * 1024**2 + 3 * 1024 * 2816 + 2048) + 32000 * 1024) / 1e6,
        ),
        # 8 d^2 for the mixer
        (
            "gla-340M",
            {"mixer": "retention", "hidden_ratio": 2},
            (24 * (8 * 1024**2 + 3 * 1024 * 1536 + 2048) + 32000 * 1024) / 1e6,
        ),
    ],
)
def test_parameter_counts(name, options, millions):
    config = LanguageModelConfig.preset(name, **options)
    model = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def test_heads_of_the_presets():
    for name, widths in (("gla-340M", (128, 256)), ("gla-1.3B", (256, 512))):
        config = LanguageModelConfig.preset(name, num_layers=1, vocab_size=8)
        model = nnx.eval_shape(lambda config=config: LanguageModel(config, rngs=nnx.Rngs(0)))
        mixer = model.blocks[0].mixer
        assert (mixer.key_features // 4, mixer.value_features // 4) == widths
        assert (mixer.num_heads, config.norm_epsilon, config.init_std) == (4, 1e-6, 0.02)


def test_initial_weights_have_the_standard_deviation():
    model = small_model(num_layers=1, mixer="softmax")
    for values in (model.embedding.embedding[...], model.blocks[0].channel_mixer.up.kernel[...]):
        assert np.std(values) == pytest.approx(model.config.init_std, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features must be at least 1"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"hidden_features": 0}, "hidden_features must be at least 1"),
        ({"hidden_features": None, "hidden_ratio": 0}, "hidden_ratio must be above 0"),
        ({"mixer": ()}, "mixer must name at least one"),
        ({"remat": "some"}, "remat must be one of None, 'nothing_saveable'"),
        ({"precision": "exact"}, "precision must be"),
        ({"axis_rules": (("head", "model"),)}, "axis_rules must be one of 'vocab'"),
        ({"mixer": "gla2"}, "mixer must be one of 'gla', 'retention', 'softmax'"),
        ({"channel_mixer": "moe"}, "channel_mixer must be one of 'swiglu'"),
        ({"mixer": "retention", "num_kv_heads": 1}, "num_kv_heads must be None with"),
        ({"mixer": "softmax", "key_features": 8}, "key_features must be None with"),
        ({"mixer": "softmax", "num_heads": 16}, "features must be a multiple of 2 num_heads"),
        ({"mixer": "softmax", "num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide"),
        ({"mixer": "retention", "key_features": 6}, "key_features must be a multiple of 2"),
        ({"mixer": "retention", "value_features": 5}, "value_features must be a multiple of"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_model(**options)


def test_bad_dtypes_and_presets_are_refused():
    for name in ("dtype", "param_dtype"):
        wrong: dict[str, Any] = {name: jnp.int8}
        with pytest.raises(TypeError, match=f"{name} must be real floating point"):
            small_config(**wrong)
    with pytest.raises(ValueError, match=r"preset must be one of 'gla-340M', 'gla-1\.3B'"):
        LanguageModelConfig.preset("gla-7B")


def test_axis_rules_shard_the_parameters():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    rules = (("vocab", "model"), ("heads", "model"), ("mlp", "model"), ("embed", "data"))
    tokens = np.arange(10).reshape(2, 5)
    with jax.set_mesh(mesh):
        model = small_model(num_layers=1, axis_rules=rules)
        out = jax.jit(lambda model, tokens: model(tokens))(model, tokens)
    specs = {
        "/".join(map(str, path)): param[...].sharding.spec
        for path, param in nnx.to_flat_state(nnx.state(model))
    }
    assert specs["embedding/embedding"] == P("model", "data")
    assert specs["head/kernel"] == P("data", "model")
    assert specs["blocks/0/mixer/query/kernel"] == P("data", "model")
    assert specs["blocks/0/mixer/output/kernel"] == P("model", "data")
    assert specs["blocks/0/channel_mixer/down/kernel"] == P("model", "data")
    np.testing.assert_allclose(out, small_model(num_layers=1)(tokens), rtol=1e-4, atol=1e-4)

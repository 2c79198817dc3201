"""Checkpoints of fla-hub: names, shapes, older formats, files, and the model by plain NumPy."""

import builtins
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.models import (
    LanguageModelConfig,
    config_from_fla,
    load_fla_checkpoint,
    model_from_fla,
    model_to_fla,
)
from structlayers.testing import assert_close
from tests.models.cases import rms_norm, swish

# as the released 340M model has it, but small
FIELDS: dict[str, Any] = {
    "model_type": "gla",
    "attn_mode": "chunk",
    "hidden_act": "swish",
    "hidden_size": 16,
    "expand_k": 0.5,
    "expand_v": 1,
    "hidden_ratio": 4,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "clamp_min": None,
    "norm_eps": 1e-6,
    "use_gk": True,
    "use_gv": False,
    "use_short_conv": False,
    "conv_size": 4,
    "tie_word_embeddings": False,
    "vocab_size": 20,
    "max_position_embeddings": 2048,
}
LAYER = {
    "attn_norm.weight": (16,),
    "attn.q_proj.weight": (8, 16),
    "attn.k_proj.weight": (8, 16),
    "attn.v_proj.weight": (16, 16),
    "attn.g_proj.weight": (16, 16),
    "attn.gk_proj.0.weight": (16, 16),
    "attn.gk_proj.1.weight": (8, 16),
    "attn.gk_proj.1.bias": (8,),
    "attn.o_proj.weight": (16, 16),
    "attn.g_norm_swish_gate.weight": (8,),
    "mlp_norm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}
SHAPES = {
    "model.embeddings.weight": (20, 16),
    "model.norm.weight": (16,),
    "lm_head.weight": (20, 16),
    **{f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in LAYER.items()},
}


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        name: (rng.standard_normal(shape) * 0.4 + (len(shape) == 1)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def logits(tensors: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The model as the released code computes it, token by token, in float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = w["model.embeddings.weight"][tokens]
    for i in (0, 1):
        p = {name: w[f"model.layers.{i}.{name}"] for name in LAYER}
        h = rms_norm(x, p["attn_norm.weight"])
        q, k, v = (h @ p[f"attn.{n}_proj.weight"].T for n in "qkv")
        low = h @ p["attn.gk_proj.0.weight"].T
        raw = low @ p["attn.gk_proj.1.weight"].T + p["attn.gk_proj.1.bias"]
        gate = (1 / (1 + np.exp(-raw))) ** (1 / 16)
        q, k, v, gate = (a.reshape(len(tokens), 2, -1) for a in (q, k, v, gate))
        state, out = np.zeros((2, 4, 8)), np.zeros((len(tokens), 2, 8))
        for t in range(len(tokens)):
            state = gate[t, :, :, None] * state + k[t, :, :, None] * v[t, :, None, :]
            out[t] = np.einsum("hk,hkv->hv", q[t], state) / 2
        out = rms_norm(out, p["attn.g_norm_swish_gate.weight"]).reshape(-1, 16)
        x = x + (out * swish(h @ p["attn.g_proj.weight"].T)) @ p["attn.o_proj.weight"].T
        h = rms_norm(x, p["mlp_norm.weight"])
        hidden = swish(h @ p["mlp.gate_proj.weight"].T) * (h @ p["mlp.up_proj.weight"].T)
        x = x + hidden @ p["mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


def load(tensors: dict[str, np.ndarray], **fields: Any) -> Any:
    return model_from_fla(tensors, config_from_fla(FIELDS | fields))


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_logits_are_those_of_the_released_code(tensors, rng):
    tokens = rng.integers(0, 20, 9)
    out = jax.jit(lambda model, tokens: model(tokens))(load(tensors), tokens)
    assert_close("logits", out, logits(tensors, tokens), 1e-5)


def test_there_and_back(tensors):
    assert equal(model_to_fla(load(tensors)), tensors)


def test_short_convolutions_and_shared_heads(tensors, rng):
    for i in (0, 1):
        for name, size in (("q", 8), ("k", 4), ("v", 8)):
            kernel = rng.standard_normal((size, 1, 4)).astype(np.float32)
            tensors[f"model.layers.{i}.attn.{name}_conv1d.weight"] = kernel
        for name in ("k_proj.weight", "v_proj.weight", "gk_proj.1.weight", "gk_proj.1.bias"):
            full = tensors[f"model.layers.{i}.attn.{name}"]
            tensors[f"model.layers.{i}.attn.{name}"] = full[: len(full) // 2]
    model = load(tensors, use_short_conv=True, num_kv_heads=1)
    assert equal(model_to_fla(model), tensors)
    (kernel,) = (conv.kernel[...] for conv in model.blocks[1].mixer.convolutions[1:2])
    # torch's convolution is a correlation: the last tap meets the token itself, as here
    np.testing.assert_array_equal(kernel.T, tensors["model.layers.1.attn.k_conv1d.weight"][:, 0])


def test_tied_embeddings(tensors):
    head = tensors.pop("lm_head.weight")
    model = load(tensors, tie_word_embeddings=True)
    assert equal(model_to_fla(model), tensors)
    same = tensors | {"lm_head.weight": tensors["model.embeddings.weight"]}
    assert equal(model_to_fla(load(same, tie_word_embeddings=True)), tensors)
    with pytest.raises(ValueError, match=r"lm_head.weight must equal model.embeddings.weight"):
        load(tensors | {"lm_head.weight": head}, tie_word_embeddings=True)


def test_older_names_and_fused_projections(tensors):
    old = dict(tensors)
    for i in (0, 1):
        prefix = f"model.layers.{i}."
        old[prefix + "attn.g_norm.weight"] = old.pop(prefix + "attn.g_norm_swish_gate.weight")
        gate, up = (old.pop(f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up"))
        old[prefix + "mlp.gate_proj.weight"] = np.concatenate([gate, up])
    assert equal(model_to_fla(load(old)), tensors)


def test_everything_that_does_not_fit_is_named(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.2.attn_norm.weight"] = np.ones(16, np.float32)
    tensors["model.norm.weight"] = np.ones(8, np.float32)
    with pytest.raises(ValueError, match="tensors do not fit") as error:
        load(tensors)
    for part in (
        "missing: model.layers.1.mlp.up_proj.weight;",
        "unexpected: model.layers.2.attn_norm.weight;",
        "of another shape: model.norm.weight (8,), wanted (16,)",
    ):
        assert part in str(error.value)


def test_integers_are_refused(tensors):
    tensors["model.norm.weight"] = np.ones(16, np.int32)
    with pytest.raises(TypeError, match=r"model.norm.weight must be real floating point"):
        load(tensors)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": None}, "the configuration must have hidden_size"),
        ({"model_type": "retnet"}, "model_type must be 'gla', got 'retnet'"),
        ({"feature_map": "relu"}, "feature_map must be None, got 'relu'"),
        ({"use_output_gate": False}, "use_output_gate must be True, got False"),
        ({"attn": {"layers": [1]}}, "attn must be None"),
        ({"clamp_min": -5}, "clamp_min must be None, got -5"),
        ({"use_gv": True}, "use_gv must be False"),
    ],
)
def test_what_the_layers_do_not_have_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config_from_fla(FIELDS | fields)


def test_other_mixers_are_refused(tensors):
    config = config_from_fla(FIELDS, mixer="softmax", key_features=None, value_features=None)
    with pytest.raises(ValueError, match="fla's GLA models have mixers 'gla' and 'swiglu'"):
        model_from_fla(tensors, config)


def test_the_released_configurations_are_the_presets():
    for name, size, tied in (("gla-340M", 1024, True), ("gla-1.3B", 2048, False)):
        fields = FIELDS | {
            "hidden_size": size,
            "intermediate_size": None,
            "num_hidden_layers": 24,
            "num_heads": 4,
            "tie_word_embeddings": tied,
            "vocab_size": 32000,
        }
        preset = LanguageModelConfig.preset(name, key_features=size // 2, value_features=size)
        assert config_from_fla(fields) == preset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    return tmp_path


def test_files_are_read(tensors, folder):
    numpy = pytest.importorskip("safetensors.numpy")
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    numpy.save_file(half, folder / "model.safetensors")
    model = load_fla_checkpoint(folder, dtype=jnp.bfloat16)
    assert (model.config.dtype, model.config.param_dtype) == (jnp.bfloat16, jnp.float32)
    wide = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    assert equal(model_to_fla(model), wide)


def test_several_files_are_read(tensors, folder):
    numpy = pytest.importorskip("safetensors.numpy")
    files = {name: f"model-0000{i % 2 + 1}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        numpy.save_file({n: tensors[n] for n in tensors if files[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert equal(model_to_fla(load_fla_checkpoint(folder)), tensors)


def test_files_that_are_not_there_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is not there"):
        load_fla_checkpoint(folder)


def test_damaged_files_are_named(tensors, folder):
    numpy = pytest.importorskip("safetensors.numpy")
    path, config = folder / "model.safetensors", folder / "config.json"
    numpy.save_file(tensors, path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is no whole safetensors file"):
            load_fla_checkpoint(folder)
        assert path.read_bytes() == content
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match=f"{index} must have a weight_map, got None"):
        load_fla_checkpoint(folder)
    config.write_text(config.read_text()[:-1])
    with pytest.raises(ValueError, match=f"{config} is no JSON: "):
        load_fla_checkpoint(folder)
    config.write_text("[]")
    with pytest.raises(ValueError, match=f"{config} must hold an object of JSON"):
        load_fla_checkpoint(folder)


def test_without_safetensors_the_extra_is_named(folder, monkeypatch):
    (folder / "model.safetensors").touch()
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'structlayers\[checkpoints\]'"):
        load_fla_checkpoint(folder)

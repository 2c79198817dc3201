"""Checkpoints of GLA models in the format of flash-linear-attention ("fla-hub"), read and written.

Facts about the format, from the released code (github.com/fla-org/flash-linear-attention,
fla/models/gla and fla/layers/gla.py): kernels of linear maps are `(outputs, inputs)`, those of
short convolutions `(D, 1, W)`; the norm of heads is `g_norm_swish_gate` where it is fused with the
output gate, else `g_norm`; early checkpoints hold gate and up projections of the channel mixer in
one `gate_proj` of twice the size, the gate first.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.models.language_model import LanguageModel, LanguageModelConfig

# names and numbers of attributes, from the model to a parameter
type _Path = tuple[Any, ...]

# Parts of a block -> names of a layer.
_BLOCK: dict[_Path, str] = {
    ("mixer_norm", "scale"): "attn_norm.weight",
    ("mixer", "query", "kernel"): "attn.q_proj.weight",
    ("mixer", "key", "kernel"): "attn.k_proj.weight",
    ("mixer", "value", "kernel"): "attn.v_proj.weight",
    ("mixer", "gate_down", "kernel"): "attn.gk_proj.0.weight",
    ("mixer", "gate_up", "kernel"): "attn.gk_proj.1.weight",
    ("mixer", "gate_up", "bias"): "attn.gk_proj.1.bias",
    ("mixer", "output_gate", "kernel"): "attn.g_proj.weight",
    ("mixer", "norm", "scale"): "attn.g_norm_swish_gate.weight",
    ("mixer", "output", "kernel"): "attn.o_proj.weight",
    ("mixer", "convolutions", 0, "kernel"): "attn.q_conv1d.weight",
    ("mixer", "convolutions", 1, "kernel"): "attn.k_conv1d.weight",
    ("mixer", "convolutions", 2, "kernel"): "attn.v_conv1d.weight",
    ("channel_norm", "scale"): "mlp_norm.weight",
    ("channel_mixer", "gate", "kernel"): "mlp.gate_proj.weight",
    ("channel_mixer", "up", "kernel"): "mlp.up_proj.weight",
    ("channel_mixer", "down", "kernel"): "mlp.down_proj.weight",
}
_EMBEDDING, _HEAD = "model.embeddings.weight", "lm_head.weight"
_MODEL: dict[_Path, str] = {
    ("embedding", "embedding"): _EMBEDDING,
    ("norm", "scale"): "model.norm.weight",
    ("head", "kernel"): _HEAD,
}

# Fields of config.json that the layers here have no choice of, and the values that they stand for.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gla",),
    "hidden_act": ("swish", "silu"),
    "use_output_gate": (True,),
    "elementwise_affine": (True,),
    "feature_map": (None,),
    "clamp_min": (None,),
    "attn": (None,),
    "use_gk": (True,),
    "use_gv": (False,),
    "conv_bias": (False,),
}
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_heads")


def config_from_fla(fla: Mapping[str, Any], **changes: Any) -> LanguageModelConfig:
    """The configuration of a GLA model from the fields of its `config.json`.

    Args:
        fla: the fields; those that are absent have the defaults of the released code, but sizes
            must be there.
        **changes: fields of the result to set, such as `dtype` or `remat`.

    Returns:
        The configuration.

    Raises:
        ValueError: a size is absent, or a field asks for what the layers here do not have.

    Example:
        >>> fla = {"vocab_size": 32000, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4}
        >>> config = config_from_fla(fla, dtype=jnp.bfloat16)
        >>> config.key_features, config.value_features, config.hidden
        (32, 64, 256)
    """
    absent = [name for name in _SIZES if fla.get(name) is None]
    if absent:
        raise ValueError(f"the configuration must have {', '.join(absent)}")
    for name, values in _FIXED.items():
        if fla.get(name, values[0]) not in values:
            raise ValueError(
                f"{name} must be {' or '.join(map(repr, values))}, got {fla[name]!r}: "
                "the model here has no other"
            )
    features = fla["hidden_size"]
    fields: dict[str, Any] = {
        "vocab_size": fla["vocab_size"],
        "features": features,
        "num_layers": fla["num_hidden_layers"],
        "num_heads": fla["num_heads"],
        "num_kv_heads": fla.get("num_kv_heads"),
        "key_features": int(features * fla.get("expand_k", 0.5)),
        "value_features": int(features * fla.get("expand_v", 1)),
        "hidden_ratio": fla.get("hidden_ratio") or 4,
        "hidden_features": fla.get("intermediate_size"),
        "conv_size": fla.get("conv_size", 4) if fla.get("use_short_conv") else None,
        "norm_epsilon": fla.get("norm_eps", 1e-6),
        "init_std": fla.get("initializer_range", 0.02),
        "tie_embeddings": fla.get("tie_word_embeddings", False),
    }
    return LanguageModelConfig(**fields | changes)


def model_from_fla(
    tensors: Mapping[str, np.ndarray | jax.Array], config: LanguageModelConfig
) -> LanguageModel:
    """A model with the weights of a state dict.

    Every tensor is checked before any is converted, so nothing is loaded in part.

    Args:
        tensors: arrays by name, of any real floating dtype, cast to `config.param_dtype`. With tied
            embeddings `lm_head.weight` may be there too, with the same values.
        config: sizes and options; all token mixers "gla", the channel mixer "swiglu".

    Returns:
        The model.

    Raises:
        ValueError: tensors that are missing, unexpected or of another shape; all are named.
        TypeError: a tensor that is not real floating point.

    Example:
        >>> config = LanguageModelConfig(vocab_size=9, features=8, num_layers=1, num_heads=2)
        >>> model = LanguageModel(config, rngs=nnx.Rngs(0))
        >>> again = model_from_fla(model_to_fla(model), config)
        >>> bool(jnp.all(again(jnp.arange(5)) == model(jnp.arange(5))))
        True
    """
    _require_gla(config)
    found = _current_names(tensors, config)
    abstract = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    flat = nnx.to_flat_state(state)
    wanted = {_name(path): _stored_shape(path, param.shape) for path, param in flat}
    _check(found, wanted)
    loaded = []
    for path, param in flat:
        values = np.asarray(found[_name(path)]).astype(config.param_dtype)
        loaded.append((path, param.replace(jnp.asarray(_turn(path, values)))))
    return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def model_to_fla(model: LanguageModel) -> dict[str, np.ndarray]:
    """The state dict of a model of "gla" mixers, in the names and shapes of fla-hub.

    Args:
        model: the model.

    Returns:
        Arrays by name, in the dtype of the parameters. With tied embeddings there is no
        `lm_head.weight`.

    Raises:
        ValueError: other mixers.

    Example:
        >>> config = LanguageModelConfig(vocab_size=9, features=8, num_layers=1, num_heads=2)
        >>> tensors = model_to_fla(LanguageModel(config, rngs=nnx.Rngs(0)))
        >>> tensors["model.layers.0.attn.q_proj.weight"].shape
        (4, 8)
    """
    _require_gla(model.config)
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {
        _name(path): np.ascontiguousarray(_turn(path, np.asarray(param[...])))
        for path, param in flat
    }


def load_fla_checkpoint(folder: str | Path, **changes: Any) -> LanguageModel:
    """Reads a GLA model from a folder as published on fla-hub.

    Args:
        folder: holds `config.json`, and `model.safetensors` or several files that
            `model.safetensors.index.json` lists.
        **changes: fields of the configuration to set, such as `dtype` or `remat`.

    Returns:
        The model.

    Raises:
        ImportError: the package safetensors is not installed.
        FileNotFoundError: one of the files is not there.
        ValueError: a file that is damaged or cut off, and as for `config_from_fla` and
            `model_from_fla`.

    Example:
        >>> try:
        ...     load_fla_checkpoint("nowhere")
        ... except FileNotFoundError as error:
        ...     print(error)
        nowhere/config.json is not there
    """
    folder = Path(folder)
    fields = _read_json(folder / "config.json")
    return model_from_fla(_read(folder), config_from_fla(fields, **changes))


def _read(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise ValueError(f"{index} must have a weight_map, got {places!r}")
        names = sorted(set(places.values()))
    files = [_require_file(folder / name) for name in names]
    try:
        from safetensors import SafetensorError  # pyrefly: ignore[missing-import]
        from safetensors.numpy import load_file  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise ImportError(
            "reading checkpoints needs safetensors: pip install 'structlayers[checkpoints]'"
        ) from error
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is no whole safetensors file: {error}") from error
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    text = _require_file(path).read_text(errors="replace")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object of JSON, got {found!r:.50}")
    return found


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    return path


def _require_gla(config: LanguageModelConfig) -> None:
    if set(config.layer_mixers) != {"gla"} or config.channel_mixer != "swiglu":
        raise ValueError(
            "fla's GLA models have mixers 'gla' and 'swiglu', got "
            f"{config.mixer!r} and {config.channel_mixer!r}"
        )


def _name(path: _Path) -> str:
    """The name of a parameter in a state dict."""
    if path[0] == "blocks":
        return f"model.layers.{path[1]}.{_BLOCK[path[2:]]}"
    return _MODEL[path]


def _turn(path: _Path, values: np.ndarray) -> np.ndarray:
    """Between the two layouts of a parameter; its own inverse up to the axis of size 1."""
    if "convolutions" in path:  # (D, 1, W) and (W, D)
        return values[:, 0].T if values.ndim == 3 else values.T[:, None]
    return values.T if path[-1] == "kernel" else values


def _stored_shape(path: _Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _turn(path, np.broadcast_to(np.float32(0), shape)).shape


def _current_names(
    tensors: Mapping[str, np.ndarray | jax.Array], config: LanguageModelConfig
) -> dict[str, Any]:
    """The state dict as current code would write it: older names and fused kernels undone."""
    found: dict[str, Any] = dict(tensors)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        plain, fused = prefix + "attn.g_norm.weight", prefix + "attn.g_norm_swish_gate.weight"
        if plain in found and fused not in found:
            found[fused] = found.pop(plain)
        gate, up = prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"
        if up not in found and np.shape(found.get(gate, 0)) == (2 * config.hidden, config.features):
            found[gate], found[up] = np.split(np.asarray(found[gate]), 2)
    if config.tie_embeddings and _HEAD in found and _EMBEDDING in found:
        if not np.array_equal(found[_HEAD], found[_EMBEDDING]):
            raise ValueError(f"{_HEAD} must equal {_EMBEDDING} where embeddings are tied")
        del found[_HEAD]
    return found


def _check(found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Names everything that does not fit.

    Raises:
        ValueError: names or shapes.
        TypeError: dtypes.
    """
    shapes = {name: np.shape(found[name]) for name in wanted if name in found}
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {shape}, wanted {wanted[name]}"
            for name, shape in shapes.items()
            if shape != wanted[name]
        ],
    }
    told = [f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names]
    if told:
        raise ValueError("tensors do not fit the configuration; " + "; ".join(told))
    for name, tensor in found.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise TypeError(f"{name} must be real floating point, got {tensor.dtype}")

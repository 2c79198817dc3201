"""The token and channel mixers that a configuration can name.

A token mixer maps `(*B, T, d)` to itself, `mixer(x, segment_ids=None)`, and decodes by
`prefill(x, state, lengths=None)`, `step(x, state)` and `initial_state(*batch, dtype=None)`, each
state a pytree. Where its attribute `state_grows` is true, `initial_state` takes `max_length` too. A
channel mixer maps `(*B, d)` to itself. Another one is added by its name:
`TOKEN_MIXERS["mine"] = make` with `make(config, rngs)`.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

from structlayers.gla import GatedLinearAttention
from structlayers.models.language_model.config import LanguageModelConfig
from structlayers.models.language_model.retention import Retention
from structlayers.models.language_model.softmax_attention import SoftmaxAttention
from structlayers.models.language_model.swiglu import SwiGLU

type MakeMixer = Callable[[LanguageModelConfig, nnx.Rngs], nnx.Module]


def layer_options(config: LanguageModelConfig, inner: str) -> dict[str, Any]:
    """Arguments that all mixers take; `inner` is the logical name of the axis inside them."""
    return {
        "dtype": config.dtype,
        "param_dtype": config.param_dtype,
        "precision": config.precision,
        "kernel_init": nnx.initializers.normal(config.init_std),
        "in_kernel_metadata": config.metadata("embed", inner),
        "out_kernel_metadata": config.metadata(inner, "embed"),
    }


def _refuse(config: LanguageModelConfig, mixer: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) is not None:
            raise ValueError(f"{name} must be None with mixer {mixer!r}, got {config}")


def _gla(config: LanguageModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    return GatedLinearAttention(
        config.features,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        key_features=config.key_features,
        value_features=config.value_features,
        gate=config.gate,
        gate_rank=config.gate_rank,
        gate_logit_normalizer=config.gate_logit_normalizer,
        conv_size=config.conv_size,
        norm_epsilon=config.norm_epsilon,
        chunk_size=config.chunk_size,
        implementation=config.implementation,
        sequence_axis=config.sequence_axis,
        rngs=rngs,
        **layer_options(config, "heads"),
    )


def _retention(config: LanguageModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    _refuse(config, "retention", "num_kv_heads", "sequence_axis")
    return Retention(
        config.features,
        num_heads=config.num_heads,
        key_features=config.key_features,
        value_features=config.value_features,
        rope_theta=config.rope_theta,
        norm_epsilon=config.norm_epsilon,
        chunk_size=config.chunk_size,
        implementation=config.implementation,
        rngs=rngs,
        **layer_options(config, "heads"),
    )


def _softmax(config: LanguageModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    _refuse(config, "softmax", "key_features", "value_features", "sequence_axis")
    return SoftmaxAttention(
        config.features,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        rope_theta=config.rope_theta,
        attention=config.attention,
        rngs=rngs,
        **layer_options(config, "heads"),
    )


def _swiglu(config: LanguageModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    return SwiGLU(config.features, config.hidden, rngs=rngs, **layer_options(config, "mlp"))


TOKEN_MIXERS: dict[str, MakeMixer] = {"gla": _gla, "retention": _retention, "softmax": _softmax}
CHANNEL_MIXERS: dict[str, MakeMixer] = {"swiglu": _swiglu}

"""Models that are compared: one decoder with different mixers of tokens, by name."""

import dataclasses
from typing import Any

import jax

from structlayers.models import LanguageModelConfig

# What differs from the config's own sizes. "constant_gate" is RetNet's gate, "scalar_gate" that of
# Mamba-2 in place of the gate by channels; nothing else changes, as in table 4 of the paper.
VARIANTS: dict[str, dict[str, Any]] = {
    "gla": {},
    "no_gate": {"gate": "none"},
    "constant_gate": {"gate": "constant"},
    "scalar_gate": {"gate": "scalar"},
    "one_head": {"num_heads": 1},
    "eight_heads": {"num_heads": 8},
    # a block of as many parameters: see structlayers/models/README.md
    "retention": {"mixer": "retention", "hidden_ratio": 2},
    "transformer": {"mixer": "softmax"},
}
HEAD_FEATURES = 64  # of softmax attention


def variant_model(base: LanguageModelConfig, name: str) -> LanguageModelConfig:
    """The model of a variant.

    Args:
        base: sizes that the variants share, with `num_heads` of GLA.
        name: one of `VARIANTS`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> base = LanguageModelConfig(vocab_size=100, features=128, num_layers=2)
        >>> variant_model(base, "transformer").num_heads, variant_model(base, "no_gate").gate
        (2, 'none')
    """
    if name not in VARIANTS:
        raise ValueError(f"variants must be among {', '.join(VARIANTS)}; got {name!r}")
    changes = dict(VARIANTS[name])
    if name == "transformer":
        changes["num_heads"] = max(base.features // HEAD_FEATURES, 1)
    return dataclasses.replace(base, **changes)


def attention_for(dtype: str) -> str:
    """Whose softmax attention is taken for a dtype: cuDNN's on GPUs in bfloat16, else JAX's."""
    return "cudnn" if jax.default_backend() == "gpu" and dtype == "bfloat16" else "jax"

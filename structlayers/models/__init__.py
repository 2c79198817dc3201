"""Networks made of the layers.

Example:
    >>> from structlayers import models
    >>> models.LanguageModelConfig.preset("gla-340M").features
    1024
"""

from structlayers.models.convert_fla import (
    config_from_fla,
    load_fla_checkpoint,
    model_from_fla,
    model_to_fla,
)
from structlayers.models.interatomic_potential import (
    InteratomicPotential,
    InteratomicPotentialConfig,
    Structure,
    ase_calculator,
    load_potential,
    make_graph,
    read_extxyz,
    save_potential,
    stack_graphs,
)
from structlayers.models.language_model import (
    LanguageModel,
    LanguageModelCache,
    LanguageModelConfig,
    Retention,
    Sampler,
    SoftmaxAttention,
    SwiGLU,
    align_left,
    generate,
)

__all__ = [
    "InteratomicPotential",
    "InteratomicPotentialConfig",
    "LanguageModel",
    "LanguageModelCache",
    "LanguageModelConfig",
    "Retention",
    "Sampler",
    "SoftmaxAttention",
    "Structure",
    "SwiGLU",
    "align_left",
    "ase_calculator",
    "config_from_fla",
    "generate",
    "load_fla_checkpoint",
    "load_potential",
    "make_graph",
    "model_from_fla",
    "model_to_fla",
    "read_extxyz",
    "save_potential",
    "stack_graphs",
]

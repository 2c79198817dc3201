"""A decoder with pluggable mixers: its configuration, the model, its mixers, generation."""

from structlayers.models.language_model.config import PRESETS, LanguageModelConfig
from structlayers.models.language_model.generation import align_left, generate
from structlayers.models.language_model.mixers import CHANNEL_MIXERS, TOKEN_MIXERS
from structlayers.models.language_model.model import (
    DecoderBlock,
    LanguageModel,
    LanguageModelCache,
)
from structlayers.models.language_model.retention import Retention, RetentionState
from structlayers.models.language_model.sampling import Sampler
from structlayers.models.language_model.softmax_attention import (
    SoftmaxAttention,
    SoftmaxAttentionState,
)
from structlayers.models.language_model.swiglu import SwiGLU

__all__ = [
    "CHANNEL_MIXERS",
    "PRESETS",
    "TOKEN_MIXERS",
    "DecoderBlock",
    "LanguageModel",
    "LanguageModelCache",
    "LanguageModelConfig",
    "Retention",
    "RetentionState",
    "Sampler",
    "SoftmaxAttention",
    "SoftmaxAttentionState",
    "SwiGLU",
    "align_left",
    "generate",
]

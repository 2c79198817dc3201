"""Logits of fla's GLA models after conversion, float32 and bfloat16.

What: models of flash-linear-attention (GLAForCausalLM) with random weights, run there and, after
`structlayers.models.model_from_fla`, here, on the same tokens: the largest difference of two
logits. Weights are drawn wider than in training (standard deviation 0.05), so that logits are of
order 1. Architectures: as in the paper; with short convolutions and tied embeddings; with one key
head for two query heads. `--peer definition` takes the model written out in float64 in its place,
on any device. Released checkpoints are not read.

Paper: Yang et al. 2024, arXiv:2312.06635, section 4.4 (the layer); fla is their code.
Peer: flash-linear-attention 0.6.0 (github.com/fla-org/flash-linear-attention), torch, transformers.
Expected: at most 1e-4 in float32 and 2e-2 in bfloat16.
Hardware: one NVIDIA GPU (fla's kernels); a minute, most of it autotuning of fla's kernels.
Command: python -m experiments run configs/gla/fla_logits.py
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.experiment import Goal
from experiments.gla.fla_logits import FlaLogits, LogitsPhase, Model, Peer

_LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}
_MODELS = (
    Model("plain"),
    Model("convolutions", (("use_short_conv", True), ("tie_word_embeddings", True))),
    Model("shared_keys", (("num_kv_heads", 2),)),
)


@dataclass(frozen=True)
class Config:
    """Which models, how large."""

    family: str = "gla"
    experiment: str = "fla_logits"
    models: tuple[str, ...] = tuple(model.name for model in _MODELS)
    """Architectures."""
    dtypes: tuple[str, ...] = tuple(_LIMITS)
    """Of the computation."""
    hidden_size: int = 256
    """Features d."""
    num_hidden_layers: int = 2
    """Blocks."""
    num_heads: int = 4
    """Heads of queries."""
    vocab_size: int = 1000
    """Tokens known."""
    init_std: float = 0.05
    """Standard deviation of the weights."""
    sequences: int = 2
    """Rows of tokens."""
    time: int = 50
    """Tokens T of each; up to 64 fla takes its recurrent kernel."""
    peer: Peer = "fla"
    """Whose logits they are compared with."""
    seed: int = 0
    """Of weights and tokens."""

    def __post_init__(self) -> None:
        """Refuses names that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        known = tuple(model.name for model in _MODELS)
        for field, names in (("dtypes", tuple(_LIMITS)), ("models", known)):
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(f"{field} must be among {', '.join(names)}; got {name!r}")

    def build(self) -> FlaLogits:
        """One phase a model and dtype."""
        sizes = (
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_heads", self.num_heads),
            ("vocab_size", self.vocab_size),
            ("initializer_range", self.init_std),
        )
        tokens = (self.sequences, self.time)
        return FlaLogits(
            tuple(
                LogitsPhase(model, sizes, dtype, tokens, self.peer, self.seed)
                for model in _MODELS
                if model.name in self.models
                for dtype in self.dtypes
            )
        )

    def goals(self) -> tuple[Goal, ...]:
        """The largest difference in each dtype."""
        return tuple(Goal(f"{dtype}/max_abs", _LIMITS[dtype], "<=") for dtype in self.dtypes)

    def smoke(self) -> Self:
        """Small models beside the definition."""
        return replace(self, peer="definition", hidden_size=64, vocab_size=50, time=20)


def get_config() -> Config:
    """All models in both dtypes."""
    return Config()

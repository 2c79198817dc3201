"""Tokens a second of a step of training, GLA beside Transformer++, from 2048 to 16384 tokens.

Forward, backward and AdamW of `experiments/language_model/train.py`: bfloat16 on float32 weights
and moments, 32768 random tokens a step, nothing made again in the backward pass but what the
attention kernels make. The blocks are those of the 1.3B models (d = 2048, SwiGLU of 5632, GLA with
four heads, Transformer++ with 32 and cuDNN's attention), six of 24, since every program has to be
compiled; the whole model is `--layers 24 --remat dots_with_no_batch_dims_saveable`. Per shape:
speed (median of three times four steps, by the clock), its share of the peak of dense bfloat16, the
bytes that the compiled step needs. flash-linear-attention is not beside it: that would be another
loop, of PyTorch.

Paper: Yang et al. 2024, arXiv:2312.06635, section 5.2, Figure 6 (1.3B, one H100; curves, no
numbers): GLA is faster than Transformer++ above 4096 tokens.
Expected: GLA is at least as fast from 2048 tokens on. Reckoned from operations, bytes and the times
of attention alone: 0.97 times as fast at 2048, 1.06, 1.2 and 1.6 at 4096, 8192 and 16384; measured
1.00, 1.07, 1.26 and 1.59.
Hardware: one H200, alone; 4.4 minutes for all.
Command: python -m experiments run configs/gla/training_throughput.py
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from experiments.experiment import Goal
from experiments.gla.training_throughput import Shape, TrainingThroughput
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.mesh import MeshShape
from experiments.language_model.variants import VARIANTS


@dataclass(frozen=True)
class Config:
    """Which models at which shapes."""

    family: str = "gla"
    experiment: str = "training_throughput"
    variants: tuple[str, ...] = ("gla", "transformer")
    """Names of models, see experiments/language_model/variants.py."""
    shapes: tuple[str, ...] = ("t2048_b16", "t4096_b8", "t8192_b4", "t16384_b2")
    """Tokens of a sequence and sequences of a step."""
    features: int = 2048
    """Size d of the residual stream."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 4
    """Of GLA."""
    vocabulary: int = 32000
    """Words."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the computation."""
    remat: str | None = None
    """What the backward pass keeps of a block: a policy of `jax.checkpoint`; None is all."""
    implementation: str | None = None
    """Of `gated_linear_attention`; None is what it chooses."""
    attention: str | None = None
    """Of the transformer: "jax", "cudnn" or "tokamax"; None is cuDNN on GPUs in bfloat16."""
    steps: int = 4
    """Of training in a measurement."""
    repeats: int = 3
    """Measurements, of which the median counts."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for name in ("variants", "shapes"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"variants must be among {', '.join(VARIANTS)}; got {name!r}")
        for name in ("features", "layers", "heads", "vocabulary", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._parsed()

    def _parsed(self) -> tuple[Shape, ...]:
        return tuple(map(Shape.parse, self.shapes))

    def build(self) -> TrainingThroughput:
        """One phase a model."""
        base = LanguageModelRun(
            features=self.features,
            layers=self.layers,
            heads=self.heads,
            tie_embeddings=False,
            dtype=self.dtype,
            remat=self.remat,
            implementation=self.implementation,
            attention=self.attention,
            accumulation=1,
            mesh=MeshShape(data=1),
        )
        return TrainingThroughput(
            self.variants, self._parsed(), base, self.vocabulary, self.steps, self.repeats
        )

    def goals(self) -> tuple[Goal, ...]:
        """GLA is at least as fast from 2048 tokens on."""
        if not {"gla", "transformer"} <= set(self.variants):
            return ()
        long = [shape for shape in self._parsed() if shape.time >= 2048]
        return tuple(Goal(f"{shape.name}/gla_over_transformer", 1.0, ">=") for shape in long)

    def smoke(self) -> Self:
        """A small model at two lengths."""
        return replace(
            self,
            shapes=("t16_b4", "t32_b2"),
            features=32,
            layers=1,
            heads=2,
            vocabulary=100,
            dtype="float32",
            steps=1,
            repeats=1,
        )


def get_config() -> Config:
    """Both models, four lengths."""
    return Config()

"""Config of the language-modelling experiments, and the goals it implies."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.experiment import Goal
from experiments.language_model import paper
from experiments.language_model.mesh import MeshShape
from experiments.language_model.tokenizer import TOKENIZERS
from experiments.language_model.variants import VARIANTS

if TYPE_CHECKING:
    from experiments.language_model.experiment import LanguageModelExperiment

_COUNTS = (
    *("features", "layers", "heads", "context", "batch", "accumulation"),
    *("steps", "warmup", "recent", "loss_chunk", "chunk"),
)


@dataclass(frozen=True)
class LanguageModelRun:
    """Language models that differ in their mixer, trained alike.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        variants: names of models, see `experiments/language_model/variants.py`.
        corpus: text to train on; its "valid" part is held out.
        other_texts: further held-out texts.
        tokenizer: "gpt2" or "bytes".
        context: tokens T of a window.
        test_contexts: further window lengths at which the held-out text is predicted.
        features: size d of the residual stream.
        layers: number of blocks.
        heads: of GLA and retention.
        tie_embeddings: whether the output layer is the transposed embedding.
        dtype: of the computation; parameters and the optimiser's state are float32.
        remat: what the backward pass keeps of a block: a policy of `jax.checkpoint`, None all.
        implementation: of `gated_linear_attention`; None is what it chooses.
        attention: of the transformer: "jax", "cudnn" or "tokamax"; None is cuDNN on GPUs in
            bfloat16, else "jax".
        batch: windows B of a step, over all devices.
        accumulation: parts of a batch whose gradients are added up one after the other.
        steps: of each model.
        warmup: steps of linear growth of the learning rate.
        learning_rate: largest.
        final_learning_rate: after the cosine.
        weight_decay: of matrices.
        beta1: of AdamW.
        beta2: of AdamW.
        clip: largest norm of the gradients.
        recent: last steps whose mean is the training loss.
        loss_chunk: tokens of a sequence whose logits are held at once.
        chunk: steps between two lines of the log.
        valid_windows: held-out windows read for each line of the log.
        mesh: devices along each axis of the mesh.
        seed: of parameters and of the order of windows.
    """

    family: str = "gla"
    experiment: str = "lm_books"
    variants: tuple[str, ...] = ("gla",)
    corpus: str = "books"
    other_texts: tuple[str, ...] = ("wikitext",)
    tokenizer: str = "gpt2"
    context: int = 1024
    test_contexts: tuple[int, ...] = ()
    features: int = 512
    layers: int = 8
    heads: int = 4
    tie_embeddings: bool = True
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: str | None = None
    implementation: str | None = None
    attention: str | None = None
    batch: int = 64
    accumulation: int = 2
    steps: int = 260
    warmup: int = 25
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    recent: int = 50
    loss_chunk: int = 256
    chunk: int = 20
    valid_windows: int = 32
    mesh: MeshShape = field(default_factory=MeshShape)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses names and counts that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.variants:
            raise ValueError("variants must name at least one model, got ()")
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"variants must be among {', '.join(VARIANTS)}; got {name!r}")
        if self.tokenizer not in TOKENIZERS:
            known = ", ".join(TOKENIZERS)
            raise ValueError(f"tokenizer must be one of {known}; got {self.tokenizer!r}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for length in self.test_contexts:
            if length < 1:
                raise ValueError(f"test_contexts must be at least 1, got {self.test_contexts}")
        if self.batch % self.accumulation:
            raise ValueError(
                f"batch must be a multiple of accumulation = {self.accumulation}, got {self.batch}"
            )
        if not self.warmup < self.steps:
            raise ValueError(f"warmup must be less than steps = {self.steps}, got {self.warmup}")

    def build(self) -> "LanguageModelExperiment":
        """The experiment: one phase a model."""
        from experiments.language_model.experiment import LanguageModelExperiment

        return LanguageModelExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: synthetic text as bytes, one or two small models."""
        return replace(
            self,
            variants=("gla",) if self.test_contexts else ("gla", "transformer"),
            corpus="synthetic",
            other_texts=(),
            tokenizer="bytes",
            context=16,
            test_contexts=(32,) if self.test_contexts else (),
            features=32,
            layers=1,
            heads=2,
            dtype="float32",
            batch=8,
            accumulation=2,
            steps=40,
            warmup=4,
            recent=5,
            loss_chunk=8,
            chunk=20,
            valid_windows=8,
        )

    def goals(self) -> tuple[Goal, ...]:
        """The paper's order of the variants, or that longer windows do no harm to GLA."""
        if self.corpus == "synthetic":
            return ()
        if self.test_contexts:
            longest = max(self.test_contexts)
            return (Goal(f"gla/perplexity_{longest}_over_{self.context}", 1, "<="),)
        goals = []
        for variant, value in paper.TRAIN_PERPLEXITY.items():
            if variant != "gla" and {variant, "gla"} <= set(self.variants):
                direction = ">=" if value > paper.TRAIN_PERPLEXITY["gla"] else "<="
                ratio = paper.over_gla(variant)
                goals.append(Goal(f"{variant}/perplexity_over_gla", 1, direction, ratio))
        if {"gla", "transformer"} <= set(self.variants):
            ratio = paper.WIKI_PERPLEXITY["gla"] / paper.WIKI_PERPLEXITY["transformer"]
            goals.append(Goal("gla/valid_over_transformer", 1.01, "<=", ratio))
        return tuple(goals)

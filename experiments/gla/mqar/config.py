"""Config of multi-query associative recall, and the goals it implies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.experiment import Goal
from experiments.gla.mqar.data import check_sizes

if TYPE_CHECKING:
    from experiments.gla.mqar.experiment import RecallExperiment

MIXERS = ("gla", "retention", "softmax")
CONTROL = "fla"  # gated linear attention by fla's layer, in PyTorch


@dataclass(frozen=True)
class Task:
    """Length of the sequences and number of pairs in each.

    Attributes:
        length: tokens T.
        pairs: pairs of a key and a value, and queries.
    """

    length: int
    pairs: int

    @classmethod
    def parse(cls, name: str) -> "Task":
        """A task by its name, LENGTH/PAIRS.

        Raises:
            ValueError: gives the form.

        Example:
            >>> Task.parse("256/16")
            Task(length=256, pairs=16)
        """
        length, _, pairs = name.partition("/")
        if not (length.isdecimal() and pairs.isdecimal()):
            raise ValueError(f"tasks must be LENGTH/PAIRS, such as 256/16; got {name!r}")
        return cls(int(length), int(pairs))


@dataclass(frozen=True)
class RecallConfig:
    """Language models of two layers on multi-query associative recall.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        tasks: LENGTH/PAIRS, see `Task`.
        mixers: token mixers, names of `structlayers.models.LanguageModel`, or "fla", the layer of
            flash-linear-attention trained in PyTorch.
        features: sizes d of the residual stream.
        num_layers: blocks.
        num_heads: of every mixer.
        hidden_features: of the SwiGLU layers; None is the model's own choice, at least 256.
        vocab_size: half of it keys, half of it values.
        tie_embeddings: whether the output layer is the transposed embedding.
        gate_logit_normalizer: tau of "gla".
        learning_rates: grid, the same for every network.
        epochs: at most; the learning rate has fallen to 0 by then.
        stop_accuracy: a network is trained no further once one learning rate has this accuracy on
            the validation examples.
        batch_tokens: tokens of a step.
        weight_decay: of AdamW.
        train_examples: drawn once, the same for all networks.
        validation_examples: to stop, and to choose the learning rate.
        test_examples: for the number reported.
        power: of the law of the queries' places.
        random_filler: whether places without a query hold words at random.
        seeds: runs of every learning rate, with other parameters and another order.
        dtype: of the computation; parameters are float32.
        precision: of float32 products; "default" is TF32 on NVIDIA GPUs since Ampere.
        implementation: of `gated_linear_attention`; None is what it chooses.
        attention: of "softmax": "jax", "cudnn" or "tokamax"; None is cuDNN on GPUs in bfloat16,
            else "jax".
        seed: of the examples and of the runs.
    """

    family: str = "gla"
    experiment: str = "mqar"
    tasks: tuple[str, ...] = ("256/16", "512/64")
    mixers: tuple[str, ...] = MIXERS
    features: tuple[int, ...] = (64, 128, 256, 512)
    num_layers: int = 2
    num_heads: int = 2
    hidden_features: int | None = None
    vocab_size: int = 8192
    tie_embeddings: bool = True
    gate_logit_normalizer: float = 16.0
    learning_rates: tuple[float, ...] = (1e-4, 4.6416e-4, 2.1544e-3, 1e-2)
    epochs: int = 64
    stop_accuracy: float = 0.99
    batch_tokens: int = 65536
    weight_decay: float = 0.01
    train_examples: int = 100_000
    validation_examples: int = 1000
    test_examples: int = 3000
    power: float = 0.01
    random_filler: bool = False
    seeds: int = 1
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    precision: Literal["default", "high", "highest"] = "default"
    implementation: str | None = None
    attention: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses names and sizes that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for name in ("tasks", "mixers", "features", "learning_rates"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one")
        for mixer in self.mixers:
            if mixer not in (*MIXERS, CONTROL):
                names = ", ".join((*MIXERS, CONTROL))
                raise ValueError(f"mixers must be among {names}; got {mixer!r}")
        for d in self.features:
            if d < 1 or d % (4 * self.num_heads):
                raise ValueError(
                    f"features must be multiples of 4 num_heads = {4 * self.num_heads}, got {d}"
                )
        for name in ("epochs", "seeds", "validation_examples", "test_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for task in map(Task.parse, self.tasks):
            check_sizes(task.length, task.pairs, self.vocab_size)
            if not 1 <= self.batch(task) <= self.train_examples:
                raise ValueError(
                    f"batch_tokens must hold at least one example of {task.length} tokens and at "
                    f"most all {self.train_examples}, got {self.batch_tokens}"
                )

    def batch(self, task: Task) -> int:
        """Examples of a step."""
        return self.batch_tokens // task.length

    def build(self) -> "RecallExperiment":
        """The experiment: one phase a task, mixer and size, one step an epoch."""
        from experiments.gla.mqar.experiment import RecallExperiment

        return RecallExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one block, short sequences, few words, two epochs."""
        return replace(
            self,
            tasks=("16/2",),
            mixers=self.mixers[:1],
            features=(16,),
            num_layers=1,
            vocab_size=32,
            learning_rates=(1e-3, 1e-2),
            epochs=2,
            batch_tokens=256,
            train_examples=128,
            validation_examples=20,
            test_examples=30,
            dtype="float32",
        )

    def goals(self) -> tuple[Goal, ...]:
        """What the papers say in words and curves: they print no accuracy.

        Attention solves the task at every size (Arora et al. 2023, section 4); gated linear
        attention is no worse than RetNet at any (Yang et al. 2024, Figure 4). It is to be no worse
        than fla's layer trained alike, too.
        """
        keys = [f"{task}/d{d:04d}" for task in self.tasks for d in self.features]
        solved = [Goal(f"{key}/softmax/accuracy", self.stop_accuracy, ">=") for key in keys]
        ahead = [
            Goal(f"{key}/gla_over_{other}", 0.0, ">=")
            for other in ("retention", CONTROL)
            if {"gla", other} <= set(self.mixers)
            for key in keys
        ]
        return (*(solved if "softmax" in self.mixers else ()), *ahead)

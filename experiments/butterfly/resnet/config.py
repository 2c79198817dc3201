"""Config of the ResNet-18 experiment, and the goals it implies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.butterfly.resnet import paper
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.butterfly.resnet.experiment import ResNetExperiment


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet-18 on CIFAR-10 with and without a layer before the classifier.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        extra_layers: what stands before the classifier: "none", "dense" or "bpbp".
        seeds: runs of each, with other parameters, order and augmentation.
        synthetic: random patterns in place of the data set, to try the code.
        width: channels of the stem.
        blocks: residual blocks in each of the four stages; 2 is ResNet-18.
        epochs: of every run.
        batch: images of a step of SGD.
        learning_rate: at the start.
        decay: factor of the learning rate every `decay_epochs`.
        decay_epochs: epochs between two decays.
        weight_decay: of everything but butterfly factors.
        momentum: of SGD.
        dtype: of the convolutions; parameters, norms' statistics and the head are float32.
        seed: of the random keys.
    """

    family: str = "butterfly"
    experiment: str = "resnet18_cifar10"
    extra_layers: tuple[str, ...] = paper.EXTRA_LAYERS
    seeds: int = 3
    synthetic: bool = False
    width: int = 64
    blocks: int = 2
    epochs: int = 100
    batch: int = 128
    learning_rate: float = 0.1
    decay: float = 0.2
    decay_epochs: int = 25
    weight_decay: float = 2e-4
    momentum: float = 0.9
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses names and counts that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for name in self.extra_layers:
            if name not in paper.EXTRA_LAYERS:
                known = ", ".join(paper.EXTRA_LAYERS)
                raise ValueError(f"extra_layers must be among {known}; got {name!r}")
        for name in ("seeds", "width", "blocks", "epochs", "batch", "decay_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def build(self) -> "ResNetExperiment":
        """The experiment: one phase a layer and seed, one step an epoch."""
        from experiments.butterfly.resnet.experiment import ResNetExperiment

        return ResNetExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: synthetic images, a small network, the butterfly alone."""
        return replace(
            self,
            extra_layers=("bpbp",),
            seeds=1,
            synthetic=True,
            width=4,
            blocks=1,
            epochs=2,
            batch=16,
            decay_epochs=1,
            dtype="float32",
        )

    def goals(self) -> tuple[Goal, ...]:
        """The paper's accuracy with a butterfly, less its spread; none for synthetic images."""
        if self.synthetic:
            return ()
        value, spread = paper.ACCURACY["bpbp"]
        gain = value - paper.ACCURACY["none"][0]
        return (
            Goal("bpbp/test_accuracy", value - spread, ">=", value, unit="%"),
            Goal("bpbp/gain_over_none", 0.0, ">=", gain, unit="%"),
        )

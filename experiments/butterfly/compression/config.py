"""Config of the compression experiment, and the goals it implies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.butterfly.compression import paper
from experiments.butterfly.compression.ranking import rank
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.butterfly.compression.experiment import CompressionExperiment

# Methods as in `methods.METHODS`, in the order of the paper's table; the last is not in it.
METHODS = (*paper.METHODS, "monarch")


@dataclass(frozen=True)
class CompressionConfig:
    """Structured hidden layers on one data set.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        dataset: which data set; the two variations of MNIST are rebuilt, not the published files.
        synthetic: random patterns in place of the data set, to try the code.
        methods: hidden layers to train.
        n: size of input and hidden layer; images are padded with zeros.
        learning_rates: grid, the same for every method.
        epochs: of every run.
        batch: rows of a step of SGD.
        momentum: of SGD.
        seeds: runs of every learning rate, with other parameters and another order of rows.
        validation_share: share of the training images kept for validation.
        use_bias: whether hidden layers have a bias; the compression factor does not count it.
        precision: of all products; "default" is TF32 on NVIDIA GPUs since Ampere.
        seed: of splits, of rebuilt sets, and of the runs.
        accuracy_goals: methods and the mean test accuracy in percent that they are to reach.
        ranking_goals: whether the paper's ranking of the methods is a goal.
    """

    family: str = "butterfly"
    experiment: str = "compress_cifar10_grey"
    dataset: Literal["cifar10_grey", "mnist_bg_rot", "mnist_noise"] = "cifar10_grey"
    synthetic: bool = False
    methods: tuple[str, ...] = METHODS
    n: int = 1024
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2)
    epochs: int = 50
    batch: int = 50
    momentum: float = 0.9
    seeds: int = 3
    validation_share: float = 0.15
    use_bias: bool = True
    precision: Literal["default", "high", "highest"] = "default"
    seed: int = 0
    accuracy_goals: tuple[tuple[str, float], ...] = ()
    ranking_goals: bool = True

    def __post_init__(self) -> None:
        """Refuses names and counts that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods must be among {', '.join(METHODS)}; got {method!r}")
        if not self.methods or not self.learning_rates:
            raise ValueError("methods and learning_rates must each name at least one")
        if self.n < 4 or self.n & (self.n - 1):
            raise ValueError(f"n must be a power of two, at least 4; got {self.n}")
        for name in ("epochs", "batch", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share must be between 0 and 1, got {self.validation_share}"
            )

    def build(self) -> "CompressionExperiment":
        """The experiment: one phase a method, one step an epoch."""
        from experiments.butterfly.compression.experiment import CompressionExperiment

        return CompressionExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: small synthetic images, two learning rates and seeds, two epochs."""
        return replace(
            self,
            synthetic=True,
            methods=self.methods[:3],
            n=64,
            learning_rates=self.learning_rates[-3:-1],
            seeds=2,
            epochs=2,
        )

    def goals(self) -> tuple[Goal, ...]:
        """Accuracies, and the ranking of the paper; none for synthetic images."""
        if self.synthetic:
            return ()
        goals = [
            Goal(
                f"{method}/test_accuracy",
                bound,
                ">=",
                paper.accuracy(method, self.dataset),
                unit="%",
            )
            for method, bound in self.accuracy_goals
        ]
        if self.ranking_goals:
            # as many baselines below a butterfly, and as many neighbours in order, as in the paper
            found = {name: paper.accuracy(name, self.dataset) or 0.0 for name in paper.METHODS}
            goals += [
                Goal(name, count, ">=", count) for name, count in rank(found, self.dataset).items()
            ]
        return tuple(goals)

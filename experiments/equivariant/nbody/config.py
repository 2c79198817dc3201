"""Config of the charged particles, and the goals it implies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.equivariant.nbody.network import PRODUCTS
from experiments.equivariant.nbody.simulate import HORIZON, WARM_UP
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.equivariant.nbody.experiment import ParticleExperiment

MSE_GOAL = 5.5e-3
RATIO_GOAL = 1.05
"""How much more than with Clebsch-Gordan products."""

# By product and largest degree of the harmonics; heights of bars, to 0.1e-3 (Luo et al. 2024).
PAPER = {
    ("clebsch_gordan", 1): 5.0e-3,
    ("gaunt", 1): 4.8e-3,
    ("clebsch_gordan", 2): 5.2e-3,
    ("gaunt", 2): 5.0e-3,
}


@dataclass(frozen=True)
class ParticleConfig:
    """Networks with several products, trained on charged particles.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        products: of features with harmonics, to compare.
        channels: of every degree.
        lmax: largest degree of the features.
        attribute_lmax: largest degree of the harmonics.
        layers: of messages.
        train_systems: to train on.
        validation_systems: to choose the best epoch by.
        test_systems: to test on.
        warm_up: steps of the simulation before the positions that a network sees.
        horizon: steps from there to those that it predicts.
        epochs: of the whole training.
        epochs_per_call: between two looks of the host; divides `epochs`.
        batch: systems of a step.
        learning_rate: of Adam, at the start.
        schedule: "constant" or "cosine".
        seeds: trainings side by side, with other parameters and another order of the systems.
        precision: of float32 products; "default" is TF32 on NVIDIA GPUs since Ampere.
        seed: of the systems and of the trainings.
    """

    family: str = "equivariant"
    experiment: str = "nbody"
    products: tuple[str, ...] = tuple(PRODUCTS)
    channels: int = 42
    lmax: int = 1
    attribute_lmax: int = 1
    layers: int = 4
    train_systems: int = 3000
    validation_systems: int = 2000
    test_systems: int = 2000
    warm_up: int = WARM_UP
    horizon: int = HORIZON
    epochs: int = 1000
    epochs_per_call: int = 20
    batch: int = 100
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    seeds: int = 3
    precision: Literal["default", "high", "highest"] = "highest"
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuses names and counts that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.products or not set(self.products) <= set(PRODUCTS):
            raise ValueError(f"products must be among {', '.join(PRODUCTS)}; got {self.products}")
        counts = ("channels", "lmax", "attribute_lmax", "layers", "horizon", "epochs", "seeds")
        systems = ("train_systems", "validation_systems", "test_systems")
        for name in (*counts, *systems, "epochs_per_call", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up must be at least 0, got {self.warm_up}")
        if self.epochs % self.epochs_per_call:
            raise ValueError(
                f"epochs_per_call must divide epochs = {self.epochs}, got {self.epochs_per_call}"
            )
        if self.batch > self.train_systems:
            raise ValueError(
                f"batch must be at most train_systems = {self.train_systems}, got {self.batch}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def build(self) -> "ParticleExperiment":
        """A phase a product."""
        from experiments.equivariant.nbody.experiment import ParticleExperiment

        return ParticleExperiment(self)

    def goals(self) -> tuple[Goal, ...]:
        """Errors of both products, and that one is as good as the other."""
        goals = [
            Goal(f"{product}/mse", MSE_GOAL, "<=", PAPER.get((product, self.attribute_lmax)))
            for product in self.products
        ]
        if set(self.products) == set(PRODUCTS):
            goals.append(Goal("gaunt_over_clebsch_gordan/mse", RATIO_GOAL, "<="))
        return tuple(goals)

    def smoke(self) -> Self:
        """Small networks and short trajectories."""
        return replace(
            self,
            channels=4,
            layers=1,
            train_systems=40,
            validation_systems=20,
            test_systems=20,
            warm_up=100,
            horizon=200,
            epochs=4,
            epochs_per_call=2,
            batch=10,
            seeds=2,
        )

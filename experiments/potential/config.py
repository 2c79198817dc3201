"""Config of the potentials, and the goals it implies."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.experiment import Goal
from experiments.potential import paper
from structlayers.models.interatomic_potential import CONTRACTIONS

if TYPE_CHECKING:
    from experiments.potential.experiment import PotentialExperiment

DATASETS = ("acac", "3bpa", "rmd17_aspirin", "rmd17_ethanol", "rmd17_naphthalene", "synthetic")

# Largest errors of forces that are reached, root mean square in meV/angstrom.
FORCE_RMSE_GOALS = {
    "acac": {"300K": 8.0, "600K": 32.0},
    "3bpa": {"300K": 13.0, "600K": 30.0, "1200K": 85.0},
}
# How much more than with all Clebsch-Gordan couplings.
RATIO_GOAL = 1.1


@dataclass(frozen=True)
class PotentialConfig:
    """Potentials with several contractions, trained on molecules.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        datasets: sets, each trained on by itself.
        contractions: symmetric contractions to compare.
        channels: of every degree.
        lmax: largest degree of harmonics and sums over neighbours.
        hidden_lmax: largest degree between the interactions.
        num_interactions: layers.
        correlation: most neighbours that one product couples.
        rank: of the contraction "gaunt_rank".
        power_scale: by which products of more neighbours count less, see the potential's config.
        degree_scale: by which harmonics of higher degrees count more, see there.
        cutoff: in angstrom.
        num_bessel: radial functions.
        radial_features: hidden sizes of the radial networks.
        validation_frames: kept of the training frames.
        epochs: of the whole training.
        epochs_per_call: between two looks of the host; divides `epochs`.
        batch: frames of a step.
        learning_rate: at the start.
        schedule: "plateau" or "cosine".
        factor: of the learning rate at a plateau.
        patience: epochs without a better validation loss that make a plateau.
        weight_decay: of the weights after sums over neighbours.
        average_decay: of the moving average of the parameters.
        energy_weight: of the squared error of the energy by atom.
        force_weight: of the squared error of the forces' components.
        clip: largest norm of a gradient.
        optimizer: "amsgrad", or "muon" for the matrices that mix channels and AMSGrad for the rest.
        refit_shift: whether the constant of the energy is fitted to the training frames at the end.
        seeds: trainings side by side, with other parameters and another order of the frames.
        precision: of float32 products; "default" is TF32 on NVIDIA GPUs since Ampere.
        implementation: of the Gaunt contractions' op; None chooses.
        evaluation_batch: frames predicted at once.
        seed: of the split and of the trainings.
    """

    family: str = "equivariant"
    experiment: str = "acac"
    datasets: tuple[str, ...] = ("acac",)
    contractions: tuple[str, ...] = tuple(CONTRACTIONS)
    channels: int = 64
    lmax: int = 3
    hidden_lmax: int = 2
    num_interactions: int = 2
    correlation: int = 3
    rank: int = 4
    power_scale: float = 1.0
    degree_scale: float = 1.0
    cutoff: float = 5.0
    num_bessel: int = 8
    radial_features: tuple[int, ...] = (64, 64, 64)
    validation_frames: int = 50
    epochs: int = 500
    epochs_per_call: int = 10
    batch: int = 5
    learning_rate: float = 0.02
    schedule: Literal["plateau", "cosine"] = "plateau"
    factor: float = 0.8
    patience: int = 10
    weight_decay: float = 5e-7
    average_decay: float = 0.99
    energy_weight: float = 1.0
    force_weight: float = 1000.0
    clip: float = 10.0
    optimizer: Literal["amsgrad", "muon"] = "amsgrad"
    refit_shift: bool = True
    seeds: int = 3
    precision: Literal["default", "high", "highest"] = "highest"
    implementation: str | None = None
    evaluation_batch: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuses names and counts that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for name, known in (("datasets", DATASETS), ("contractions", tuple(CONTRACTIONS))):
            values = getattr(self, name)
            if not values or not set(values) <= set(known):
                raise ValueError(f"{name} must be among {', '.join(known)}; got {values}")
        counts = ("validation_frames", "epochs", "epochs_per_call", "batch", "seeds")
        for name in (*counts, "evaluation_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs % self.epochs_per_call:
            raise ValueError(
                f"epochs_per_call must divide epochs = {self.epochs}, got {self.epochs_per_call}"
            )

    def build(self) -> "PotentialExperiment":
        """The experiment: one phase a set and contraction, one step an epoch."""
        from experiments.potential.experiment import PotentialExperiment

        return PotentialExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: a synthetic molecule, few channels, low degrees."""
        return replace(
            self,
            datasets=("synthetic",),
            contractions=self.contractions[:2],
            channels=2,
            lmax=1,
            hidden_lmax=1,
            correlation=2,
            num_bessel=4,
            radial_features=(8,),
            validation_frames=2,
            epochs=4,
            epochs_per_call=2,
            seeds=2,
        )

    def goals(self) -> tuple[Goal, ...]:
        """Errors of the forces, and how the other contractions stand to Clebsch-Gordan's."""
        goals = []
        for dataset in self.datasets:
            for contraction in self.contractions:
                goals += self._force_goals(dataset, contraction)
                goals += self._ratio_goals(dataset, contraction)
        return tuple(goals)

    def _force_goals(self, dataset: str, contraction: str) -> list[Goal]:
        key = f"{dataset}/{contraction}"
        if dataset.startswith("rmd17_"):
            molecule = dataset.removeprefix("rmd17_")
            bound, published = (
                table[molecule] for table in (paper.RMD17_FORCE_MAE_RERUN, paper.RMD17_FORCE_MAE)
            )
            return [Goal(f"{key}/test/force_mae", bound, "<=", published, "meV/A")]
        published = paper.BPA_FORCE_RMSE if dataset == "3bpa" else {}
        return [
            Goal(
                f"{key}/{name}/force_rmse", bound, "<=", published.get((contraction, name)), "meV/A"
            )
            for name, bound in FORCE_RMSE_GOALS.get(dataset, {}).items()
        ]

    def _ratio_goals(self, dataset: str, contraction: str) -> list[Goal]:
        if contraction == "clebsch_gordan" or "clebsch_gordan" not in self.contractions:
            return []
        key = f"{dataset}/{contraction}_over_clebsch_gordan"
        return [
            Goal(f"{key}/{name}/force_rmse", RATIO_GOAL, "<=")
            for name in FORCE_RMSE_GOALS.get(dataset, {})
        ]

"""Potentials on molecules: a phase a set and contraction, an epoch a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.data.molecules import load_molecules
from experiments.experiment import Results
from experiments.potential.config import PotentialConfig
from experiments.potential.evaluate import evaluate, mean_residual
from experiments.potential.frames import Frames, Prepared, prepare
from experiments.potential.train import Trainer, initialize
from experiments.seeds import SeedsPhase, State
from structlayers.models.interatomic_potential import InteratomicPotentialConfig, save_potential

ERRORS = ("energy_rmse", "energy_mae", "force_rmse", "force_mae")


@dataclass(frozen=True)
class Data:
    """The frames of one set, loaded when they are first needed and kept on the device."""

    config: PotentialConfig
    dataset: str

    @cached_property
    def prepared(self) -> Prepared:
        """Splits, test sets and statistics."""
        config = self.config
        return prepare(
            load_molecules(self.dataset),
            validation=config.validation_frames,
            seed=config.seed,
            cutoff=config.cutoff,
            dtype="float32",
        )


@dataclass(frozen=True)
class TrainPotential(SeedsPhase[PotentialConfig]):
    """All seeds of one potential on one set, side by side."""

    data: Data
    contraction: str
    # infinite until the first validation
    allow_nonfinite: frozenset[str] = frozenset({"best_loss", "plateau.best_value"})

    @property
    def name(self) -> str:
        """E.g. "acac_gaunt"."""
        return f"{self.data.dataset}_{self.contraction}"

    @cached_property
    @override
    def trainer(self) -> Trainer:
        """The potential and its update."""
        config, found = self.config, self.data.prepared.found
        model = InteratomicPotentialConfig(
            found.species,
            atomic_energies=found.atomic_energies,
            cutoff=config.cutoff,
            channels=config.channels,
            lmax=config.lmax,
            hidden_lmax=config.hidden_lmax,
            num_interactions=config.num_interactions,
            correlation=config.correlation,
            contraction=self.contraction,
            rank=config.rank,
            power_scale=config.power_scale,
            degree_scale=config.degree_scale,
            num_bessel=config.num_bessel,
            radial_features=config.radial_features,
            mean_neighbours=found.mean_neighbours,
            scale=found.scale,
            shift=found.shift,
            precision=config.precision,
            implementation=config.implementation,
        )
        return Trainer(
            model,
            batch=config.batch,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            schedule=config.schedule,
            factor=config.factor,
            patience=config.patience,
            weight_decay=config.weight_decay,
            average_decay=config.average_decay,
            energy_weight=config.energy_weight,
            force_weight=config.force_weight,
            clip=config.clip,
            optimizer=config.optimizer,
        )

    @property
    @override
    def examples(self) -> tuple[Frames, Frames]:
        """The frames."""
        prepared = self.data.prepared
        return prepared.train, prepared.validation

    def init(self) -> State:
        """Random parameters of every seed."""
        return initialize(self.trainer, self.keys[0])

    def finish(self, state: State) -> dict[str, Any]:
        """Errors of the best average of every seed on every test set, and the time of a step."""
        prepared, chunk = self.data.prepared, self.config.evaluation_batch
        places, shift = prepared.most_frames, self._refitted_shift(state)
        tests = {
            name: evaluate(self.trainer, state["best"], frames, chunk, places, shift)
            for name, frames in prepared.tests.items()
        }
        return {
            "dataset": self.data.dataset,
            "contraction": self.contraction,
            "tests": tests,
            "refitted_shift": shift.tolist(),
            "parameters": state["parameters"].shape[1],
            "validation_loss": np.asarray(state["best_loss"], float).tolist(),
            "steps": int(state["steps"][0]),
            "step_milliseconds": self.step_milliseconds(state),
        }

    def keep(self, state: State, folder: Path) -> None:
        """The best average of every seed as `NAME_SEED.npz`, for `load_potential`."""
        for seed, shift in enumerate(self._refitted_shift(state)):
            potential = self.trainer.vector.merge(state["best"][seed])
            config = potential.config
            potential.config = replace(config, shift=config.shift + float(shift))
            save_potential(potential, folder / f"{self.name}_{seed}.npz")

    def _refitted_shift(self, state: State) -> np.ndarray:
        """Energy by atom to add to the predictions of every seed, `(seeds,)`."""
        if not self.config.refit_shift:
            return np.zeros(self.config.seeds)
        prepared, chunk = self.data.prepared, self.config.evaluation_batch
        return mean_residual(
            self.trainer, state["best"], prepared.train, chunk, prepared.most_frames
        )


@dataclass(frozen=True)
class PotentialExperiment:
    """A phase a set and contraction."""

    config: PotentialConfig

    def phases(self) -> Sequence[TrainPotential]:
        """Set by set."""
        return [
            TrainPotential(self.config, data, contraction)
            for data in [Data(self.config, name) for name in self.config.datasets]
            for contraction in self.config.contractions
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """Errors by DATASET/CONTRACTION/TEST, means over the seeds, and ratios of the contractions.

        `DATASET/CONTRACTION_over_clebsch_gordan/...` are ratios of those means, and of the times.
        """
        metrics: dict[str, float] = {}
        for result in results.values():
            key = f"{result['dataset']}/{result['contraction']}"
            for test, found in result["tests"].items():
                for name in ERRORS:
                    values = np.array(found[name])
                    metrics[f"{key}/{test}/{name}"] = float(values.mean())
                    if len(values) > 1:
                        metrics[f"{key}/{test}/{name}_std"] = float(values.std(ddof=1))
            metrics[f"{key}/parameters"] = float(result["parameters"])
            metrics[f"{key}/step_milliseconds"] = result["step_milliseconds"]
        return metrics | _ratios(metrics, self.config)

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Predicted against reference forces and energies, a row a set and contraction."""
        from experiments.potential.plots import draw_parity

        draw_parity(results, path)


def _ratios(metrics: Mapping[str, float], config: PotentialConfig) -> dict[str, float]:
    """Of every contraction's errors and times to those of "clebsch_gordan", where both are."""
    ratios = {}
    for dataset in config.datasets:
        base = f"{dataset}/clebsch_gordan/"
        names = [key.removeprefix(base) for key in metrics if key.startswith(base)]
        names = [name for name in names if not name.endswith("_std")]
        for contraction in config.contractions:
            if contraction != "clebsch_gordan":
                ratios |= {
                    f"{dataset}/{contraction}_over_clebsch_gordan/{name}": (
                        metrics[f"{dataset}/{contraction}/{name}"] / metrics[base + name]
                    )
                    for name in names
                }
    return ratios

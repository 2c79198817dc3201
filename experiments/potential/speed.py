"""Time of a training step, and of energy and forces, of one potential by contraction and degree."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import jax
import numpy as np

from experiments.bench.turns import device_turn
from experiments.experiment import Goal, Results, Scalars
from experiments.potential.config import DATASETS, PotentialConfig
from experiments.potential.experiment import Data, TrainPotential
from experiments.potential.train import predict_all

VARIANTS: dict[str, tuple[str, str | None]] = {
    "clebsch_gordan": ("clebsch_gordan", None),
    "gaunt": ("gaunt", None),
    "gaunt_fourier": ("gaunt", "fourier"),
    "gaunt_rank": ("gaunt_rank", None),
    "gaunt_vector_signal": ("gaunt_vector_signal", None),
}
"""What is compared: a contraction, and the implementation of its products."""

# Largest times of the Gaunt contraction on the grid, as multiples of the other's: the second is
# what Xie et al. measured between the same two routes, 1 / 1.3125.
GOALS = {"clebsch_gordan": 1.0, "gaunt_fourier": 0.77}


@dataclass(frozen=True)
class PotentialSpeedConfig:
    """Potentials that differ in their contraction, with random parameters.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        dataset: whose frames are batched.
        lmaxs: largest degrees of harmonics and sums over neighbours.
        variants: names in `VARIANTS`.
        channels: of every degree.
        hidden_lmax: largest degree between the interactions.
        num_interactions: layers.
        correlation: most neighbours that one product couples.
        batch: frames of a step.
        seeds: trained side by side.
        precision: of float32 products.
        repeats: of every measurement; the median counts.
    """

    family: str = "equivariant"
    experiment: str = "potential_speed"
    dataset: str = "acac"
    lmaxs: tuple[int, ...] = (2, 3, 4)
    variants: tuple[str, ...] = tuple(VARIANTS)
    channels: int = 64
    hidden_lmax: int = 2
    num_interactions: int = 2
    correlation: int = 3
    batch: int = 5
    seeds: int = 3
    precision: Literal["default", "high", "highest"] = "highest"
    repeats: int = 5

    def __post_init__(self) -> None:
        """Refuses names that no run can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset must be among {', '.join(DATASETS)}; got {self.dataset!r}")
        if not self.variants or not set(self.variants) <= set(VARIANTS):
            raise ValueError(f"variants must be among {', '.join(VARIANTS)}; got {self.variants}")
        if self.repeats < 1 or not self.lmaxs:
            raise ValueError("repeats must be at least 1 and lmaxs hold at least one degree")

    def build(self) -> "PotentialSpeed":
        """A phase a degree and variant."""
        return PotentialSpeed(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: a synthetic molecule, degree 1, two variants."""
        return replace(
            self,
            dataset="synthetic",
            lmaxs=(1,),
            variants=("gaunt", "gaunt_fourier"),
            channels=2,
            hidden_lmax=1,
            num_interactions=1,
            correlation=2,
            seeds=1,
            repeats=1,
        )

    def goals(self) -> tuple[Goal, ...]:
        """A step with the Gaunt contraction on the grid is no longer than with the others."""
        return tuple(
            Goal(f"l{lmax}/gaunt_over_{other}/step_milliseconds", bound, "<=")
            for lmax in self.lmaxs
            for other, bound in GOALS.items()
            if {"gaunt", other} <= set(self.variants)
        )

    def potential(self, lmax: int, variant: str) -> PotentialConfig:
        """The training whose steps are measured: a call of it is an epoch."""
        contraction, implementation = VARIANTS[variant]
        return PotentialConfig(
            datasets=(self.dataset,),
            contractions=(contraction,),
            channels=self.channels,
            lmax=lmax,
            hidden_lmax=self.hidden_lmax,
            num_interactions=self.num_interactions,
            correlation=self.correlation,
            validation_frames=2 if self.dataset == "synthetic" else 50,
            epochs=1,
            epochs_per_call=1,
            batch=self.batch,
            seeds=self.seeds,
            precision=self.precision,
            implementation=implementation,
        )


@dataclass(frozen=True)
class MeasurePotential:
    """One potential: a step is a repeat, compiled before the first."""

    config: PotentialSpeedConfig
    data: Data
    lmax: int
    variant: str

    @property
    def name(self) -> str:
        """E.g. "l3_gaunt"."""
        return f"l{self.lmax}_{self.variant}"

    @property
    def num_steps(self) -> int:
        """Repeats."""
        return self.config.repeats

    chunk = 1

    @cached_property
    def training(self) -> TrainPotential:
        """The potential and its update."""
        config = self.config.potential(self.lmax, self.variant)
        return TrainPotential(config, self.data, config.contractions[0])

    @cached_property
    def measured(self) -> tuple[Callable[[], float], Callable[[], float]]:
        """Milliseconds of a step of all seeds, and of energy and forces of a batch of frames."""
        training, prepared = self.training, self.data.prepared
        trainer, batch = training.trainer, self.config.batch
        state = training.init()
        pieces = -(-prepared.train.size // batch)
        predict = predict_all.lower(
            trainer, state["parameters"], prepared.train, chunk=batch
        ).compile()

        def step() -> float:
            return training.step_milliseconds(state, repeats=1)

        def forces() -> float:
            start = time.perf_counter()
            jax.block_until_ready(predict(state["parameters"], prepared.train))
            return 1000 * (time.perf_counter() - start) / pieces

        step(), forces()  # compiled, and run once
        return step, forces

    def init(self) -> dict[str, np.ndarray]:
        """No repeat yet."""
        return {"milliseconds": np.zeros((self.config.repeats, 2))}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """The next repeats."""
        found, measured = np.array(state["milliseconds"]), self.measured
        with device_turn():
            for repeat in range(step, step + num):
                found[repeat] = [measure() for measure in measured]
        last = found[step + num - 1]
        return {"milliseconds": found}, {"step_ms": float(last[0]), "forces_ms": float(last[1])}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """All repeats."""
        step, forces = np.asarray(state["milliseconds"]).T.tolist()
        return {
            "lmax": self.lmax,
            "variant": self.variant,
            "parameters": self.training.trainer.vector.size,
            "step_milliseconds": step,
            "energy_and_forces_milliseconds": forces,
        }


@dataclass(frozen=True)
class PotentialSpeed:
    """A phase a degree and variant."""

    config: PotentialSpeedConfig

    def phases(self) -> Sequence[MeasurePotential]:
        """Degree by degree."""
        data = Data(self.config.potential(self.config.lmaxs[0], "gaunt"), self.config.dataset)
        return [
            MeasurePotential(self.config, data, lmax, variant)
            for lmax in self.config.lmaxs
            for variant in self.config.variants
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """Medians by lLMAX/VARIANT, and of those of "gaunt" the ratios to the others'."""
        metrics: dict[str, float] = {}
        times = ("step_milliseconds", "energy_and_forces_milliseconds")
        for result in results.values():
            key = f"l{result['lmax']}/{result['variant']}"
            metrics |= {f"{key}/{name}": float(np.median(result[name])) for name in times}
            metrics[f"{key}/parameters"] = float(result["parameters"])
        for lmax in self.config.lmaxs:
            for other in self.config.variants:
                if other != "gaunt" and "gaunt" in self.config.variants:
                    metrics |= {
                        f"l{lmax}/gaunt_over_{other}/{name}": (
                            metrics[f"l{lmax}/gaunt/{name}"] / metrics[f"l{lmax}/{other}/{name}"]
                        )
                        for name in times
                    }
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Milliseconds of a step by degree, a line a variant."""
        from experiments.potential.plots import draw_steps

        del results
        draw_steps(metrics, self.config.lmaxs, self.config.variants, path)

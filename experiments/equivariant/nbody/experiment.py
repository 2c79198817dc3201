"""Charged particles: a phase a product, an epoch a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.equivariant.nbody.config import PAPER, ParticleConfig
from experiments.equivariant.nbody.simulate import TIME_STEP
from experiments.equivariant.nbody.systems import Sets, Systems, make_sets
from experiments.equivariant.nbody.train import Trainer, initialize, losses
from experiments.experiment import Results
from experiments.seeds import SeedsPhase, State


@dataclass(frozen=True)
class Data:
    """The systems, made when they are first needed and kept on the device."""

    config: ParticleConfig

    @cached_property
    def sets(self) -> Sets:
        """To train on, to validate on and to test on."""
        config = self.config
        sizes = (config.train_systems, config.validation_systems, config.test_systems)
        return make_sets(
            sizes,
            config.attribute_lmax,
            config.seed,
            warm_up=config.warm_up,
            horizon=config.horizon,
        )


@dataclass(frozen=True)
class TrainParticles(SeedsPhase[ParticleConfig]):
    """All seeds of the network with one product, side by side."""

    data: Data
    product: str
    # infinite until the first validation
    allow_nonfinite: frozenset[str] = frozenset({"best_loss"})

    @property
    def name(self) -> str:
        """The product."""
        return self.product

    @cached_property
    @override
    def trainer(self) -> Trainer:
        """The network and its update."""
        config = self.config
        return Trainer(
            self.product,
            config.channels,
            config.lmax,
            config.attribute_lmax,
            config.layers,
            config.precision,
            batch=config.batch,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            schedule=config.schedule,
        )

    @property
    @override
    def examples(self) -> tuple[Systems, Systems]:
        """The systems."""
        sets = self.data.sets
        return sets.train, sets.validation

    def init(self) -> State:
        """Random parameters of every seed."""
        return initialize(self.trainer, self.keys[0])

    def finish(self, state: State) -> dict[str, Any]:
        """Test errors of the best parameters of every seed, and the time of a step.

        `constant_velocity_mse` is the error of who takes the particles straight on.
        """
        test = self.data.sets.test
        straight = TIME_STEP * self.config.horizon * np.asarray(test.vectors)[:, :, 1]
        found = losses(self.trainer, state["best"], test)
        return {
            "product": self.product,
            "mse": np.asarray(found, float).tolist(),
            "validation_mse": np.asarray(state["best_loss"], float).tolist(),
            "constant_velocity_mse": float(np.mean((straight - test.displacement) ** 2)),
            "parameters": state["parameters"].shape[1],
            "step_milliseconds": self.step_milliseconds(state),
        }


@dataclass(frozen=True)
class ParticleExperiment:
    """A phase a product, all on the same systems."""

    config: ParticleConfig

    def phases(self) -> Sequence[TrainParticles]:
        """Product by product."""
        data = Data(self.config)
        return [TrainParticles(self.config, data, product) for product in self.config.products]

    def finish(self, results: Results) -> dict[str, float]:
        """By product the mean of `mse` over the seeds and its standard deviation `mse_std`.

        `step_milliseconds` is of all seeds together, with an epoch's share of the validation.
        `gaunt_over_clebsch_gordan/...` are the ratios of the means and of the times.
        """
        metrics: dict[str, float] = {}
        for product, result in results.items():
            values = np.array(result["mse"])
            metrics[f"{product}/mse"] = float(values.mean())
            if len(values) > 1:
                metrics[f"{product}/mse_std"] = float(values.std(ddof=1))
            metrics[f"{product}/validation_mse"] = float(np.mean(result["validation_mse"]))
            metrics[f"{product}/parameters"] = float(result["parameters"])
            metrics[f"{product}/step_milliseconds"] = result["step_milliseconds"]
            metrics["constant_velocity/mse"] = result["constant_velocity_mse"]
        if {"clebsch_gordan", "gaunt"} <= results.keys():
            for name in ("mse", "step_milliseconds"):
                metrics[f"gaunt_over_clebsch_gordan/{name}"] = (
                    metrics[f"gaunt/{name}"] / metrics[f"clebsch_gordan/{name}"]
                )
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Errors of every seed by product, beside the paper's."""
        from experiments.equivariant.nbody.plots import draw_errors

        del metrics
        lmax = self.config.attribute_lmax
        published = {
            product: PAPER[product, lmax] for product in results if (product, lmax) in PAPER
        }
        draw_errors(results, published, path)

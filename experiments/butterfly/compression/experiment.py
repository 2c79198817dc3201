"""The compression experiment: a phase a method, an epoch a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.compression.config import CompressionConfig
from experiments.butterfly.compression.data import (
    Splits,
    load_images,
    make_splits,
    synthetic_set,
)
from experiments.butterfly.compression.methods import METHODS, compression
from experiments.butterfly.compression.ranking import rank
from experiments.butterfly.compression.train import (
    State,
    Trainer,
    accuracy,
    initialize,
    train_epoch,
)
from experiments.experiment import Phase, Results


class Data:
    """The splits of a config, loaded when they are first needed."""

    def __init__(self, config: CompressionConfig):
        self.config = config

    @cached_property
    def splits(self) -> Splits:
        """Rows on the device."""
        config = self.config
        if config.synthetic:
            images = synthetic_set(config.n)
        else:
            images = load_images(config.dataset, config.seed)
        return make_splits(images, config.n, config.validation_share, config.seed)


@dataclass(frozen=True)
class TrainMethod:
    """All runs of one method: every seed at every learning rate, side by side."""

    config: CompressionConfig
    method: str
    data: Data
    chunk: int = 1
    # a learning rate that diverges is a bad run, not the end
    allow_nonfinite: frozenset[str] = frozenset({"*"})

    @property
    def name(self) -> str:
        """The method's."""
        return self.method

    @property
    def num_steps(self) -> int:
        """Epochs."""
        return self.config.epochs

    @cached_property
    def trainer(self) -> Trainer:
        """The method's network and its update."""
        config = self.config
        return Trainer(
            self.method,
            config.n,
            use_bias=config.use_bias,
            precision=config.precision,
            momentum=config.momentum,
            batch=config.batch,
        )

    @property
    def keys(self) -> jax.Array:
        """Two keys a seed: of the parameters and of the order of rows, (2, seeds)."""
        return jax.random.split(jax.random.key(self.config.seed), (2, self.config.seeds))

    def init(self) -> State:
        """Random parameters of every seed."""
        return initialize(self.trainer, self.keys[0], len(self.config.learning_rates))

    def advance(self, state: State, step: int, num: int) -> tuple[State, dict[str, float]]:
        """The next epochs; logs the best learning rate's loss and validation accuracy."""
        splits = self.data.splits
        rates = jnp.asarray(self.config.learning_rates, jnp.float32)
        loss = found = jnp.zeros(())
        for epoch in range(step, step + num):
            state, loss, found = train_epoch(
                self.trainer,
                state,
                self.keys[1],
                rates,
                jnp.int32(epoch),
                splits.train,
                splits.validation,
            )
        by_rate = np.asarray(found).mean(axis=0)
        best = int(by_rate.argmax())
        return state, {
            "loss": float(np.asarray(loss)[:, best].mean()),
            "validation_accuracy": 100 * float(by_rate[best]),
            "best_accuracy": 100 * float(np.asarray(state["best_accuracy"]).mean(axis=0).max()),
            "learning_rate": self.config.learning_rates[best],
        }

    def finish(self, state: State) -> dict[str, Any]:
        """Accuracies in percent, (seeds, rates) each: of the epoch that was best on validation."""
        tested = accuracy(self.trainer, state["best"], self.data.splits.test)
        finite = jax.tree.reduce(
            jnp.logical_and,
            jax.tree.map(
                lambda leaf: jnp.isfinite(leaf).all(axis=range(2, leaf.ndim)), state["parameters"]
            ),
        )
        return {
            "learning_rates": list(self.config.learning_rates),
            "validation_accuracy": (100 * np.asarray(state["best_accuracy"], float)).tolist(),
            "test_accuracy": (100 * np.asarray(tested, float)).tolist(),
            "best_epoch": np.asarray(state["best_epoch"]).tolist(),
            "diverged": (~np.asarray(finite)).tolist(),
            "parameters": METHODS[self.method].parameters(self.config.n),
            "all_parameters": sum(leaf[0, 0].size for leaf in jax.tree.leaves(state["parameters"])),
            "compression": compression(self.method, self.config.n),
        }


@dataclass(frozen=True)
class CompressionExperiment:
    """A phase a method."""

    config: CompressionConfig

    def phases(self) -> Sequence[Phase]:
        """In the order of the config."""
        data = Data(self.config)
        return [TrainMethod(self.config, method, data) for method in self.config.methods]

    def finish(self, results: Results) -> dict[str, float]:
        """Numbers of every method at its best learning rate, and how the methods rank."""
        chosen = {method: choose(result) for method, result in results.items()}
        metrics = {
            f"{method}/{name}": value
            for method, numbers in chosen.items()
            for name, value in numbers.items()
        }
        tested = {method: numbers["test_accuracy"] for method, numbers in chosen.items()}
        return metrics | rank(tested, self.config.dataset)

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Bars of test accuracy beside the paper's."""
        from experiments.butterfly.compression.plots import draw_accuracies

        draw_accuracies(self.config, metrics, path)


def choose(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a method at the learning rate that is best on validation, seeds averaged.

    `test_accuracy_std` is the sample standard deviation over the seeds (0 for one seed).
    """
    validation, test = (np.array(result[f"{name}_accuracy"]) for name in ("validation", "test"))
    best = int(validation.mean(axis=0).argmax())
    column = test[:, best]
    return {
        "test_accuracy": float(column.mean()),
        "test_accuracy_std": float(column.std(ddof=1)) if len(column) > 1 else 0.0,
        "validation_accuracy": float(validation[:, best].mean()),
        "learning_rate": float(result["learning_rates"][best]),
        "best_epoch": float(np.mean(np.array(result["best_epoch"])[:, best])),
        "diverged_runs": float(np.sum(result["diverged"])),
        "parameters": float(result["parameters"]),
        "all_parameters": float(result["all_parameters"]),
        "compression": float(result["compression"]),
    }

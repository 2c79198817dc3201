"""Multi-query associative recall: a phase a task, mixer and size, an epoch a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import Phase, Results
from experiments.gla import fla_packages
from experiments.gla.mqar import train
from experiments.gla.mqar.config import CONTROL, RecallConfig, Task
from experiments.gla.mqar.data import Examples, draw_examples
from experiments.gla.mqar.train import State, Trainer
from experiments.language_model.variants import attention_for
from structlayers.models import LanguageModelConfig


@dataclass(frozen=True)
class Data:
    """The examples of one task, drawn when they are first needed and kept on the device."""

    config: RecallConfig
    task: Task

    @cached_property
    def splits(self) -> dict[str, Examples]:
        """Those to train on, to validate on and to test on."""
        config = self.config
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        return {
            name: draw_examples(
                jax.random.fold_in(key, number),
                getattr(config, f"{name}_examples"),
                length=self.task.length,
                pairs=self.task.pairs,
                vocab_size=config.vocab_size,
                power=config.power,
                random_filler=config.random_filler,
            )
            for number, name in enumerate(("train", "validation", "test"))
        }


@dataclass(frozen=True)
class TrainNetwork:
    """All runs of one network: every seed at every learning rate, side by side."""

    config: RecallConfig
    data: Data
    mixer: str
    features: int
    chunk: int = 1
    # a learning rate that diverges is a bad run, not the end
    allow_nonfinite: frozenset[str] = frozenset({"*"})

    @property
    def name(self) -> str:
        """E.g. "256_16_d0064_gla"."""
        return f"{self.data.task.length}_{self.data.task.pairs}_d{self.features:04d}_{self.mixer}"

    @property
    def num_steps(self) -> int:
        """Epochs, at most."""
        return self.config.epochs

    @cached_property
    def trainer(self) -> Trainer:
        """The network and its update."""
        config = self.config
        model = LanguageModelConfig(
            vocab_size=config.vocab_size,
            features=self.features,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            hidden_features=config.hidden_features,
            tie_embeddings=config.tie_embeddings,
            mixer="gla" if self.mixer == CONTROL else self.mixer,
            gate_logit_normalizer=config.gate_logit_normalizer,
            dtype=jnp.dtype(config.dtype),
            precision=config.precision,
            implementation=config.implementation,
            attention=config.attention or attention_for(config.dtype),
        )
        return Trainer(model, config.batch(self.data.task), config.epochs, config.weight_decay)

    @property
    def training(self) -> ModuleType:
        """Where `initialize`, `train_epoch` and `accuracy` are: `train`, or the control's."""
        if self.mixer != CONTROL:
            return train
        from experiments.gla.mqar import fla_control

        return fla_control

    @property
    def keys(self) -> jax.Array:
        """Two keys a seed: of the parameters and of the order of examples, (2, seeds)."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 1)
        return jax.random.split(key, (2, self.config.seeds))

    def init(self) -> State:
        """Random parameters of every seed."""
        return self.training.initialize(self.trainer, self.keys[0], len(self.config.learning_rates))

    def advance(self, state: State, step: int, num: int) -> tuple[State, dict[str, float]]:
        """The next epochs, if the network has not reached the accuracy to stop at."""
        del step
        rates = jnp.asarray(self.config.learning_rates, jnp.float32)
        scalars: dict[str, float] = {}
        for _ in range(num):
            _, best = _best(state["accuracy"])
            if best >= self.config.stop_accuracy:
                break
            state, losses = self.training.train_epoch(
                self.trainer,
                state,
                self.keys[1],
                rates,
                self.data.splits["train"],
                self.data.splits["validation"],
            )
            index, best = _best(state["accuracy"])
            scalars = {
                "loss": float(np.asarray(losses)[:, index].mean()),
                "accuracy": best,
                "learning_rate": self.config.learning_rates[index],
            }
        return state, scalars

    def finish(self, state: State) -> dict[str, Any]:
        """Accuracies, (seeds, rates) each, and what they took."""
        tested = self.training.accuracy(self.trainer, state["parameters"], self.data.splits["test"])
        leaves = jax.tree.leaves(state["parameters"])
        finite = [np.isfinite(leaf).all(axis=tuple(range(2, leaf.ndim))) for leaf in leaves]
        return {
            "task": f"{self.data.task.length}/{self.data.task.pairs}",
            "mixer": self.mixer,
            "features": self.features,
            "learning_rates": list(self.config.learning_rates),
            "validation_accuracy": np.asarray(state["accuracy"], float).tolist(),
            "test_accuracy": np.asarray(tested, float).tolist(),
            "epochs": int(state["epochs"]),
            "diverged": (~np.all(finite, axis=0)).tolist(),
            "parameters": sum(leaf[0, 0].size for leaf in leaves),
            **({"versions": fla_packages.versions()} if self.mixer == CONTROL else {}),
        }


def _best(found: Any) -> tuple[int, float]:
    """The learning rate with the best mean over the seeds, and that mean."""
    by_rate = np.asarray(found, float).mean(axis=0)
    index = int(by_rate.argmax())
    return index, float(by_rate[index])


@dataclass(frozen=True)
class RecallExperiment:
    """A phase a task, size and mixer."""

    config: RecallConfig

    def phases(self) -> Sequence[Phase]:
        """Task by task, the small sizes first."""
        config = self.config
        return [
            TrainNetwork(config, data, mixer, features)
            for data in [Data(config, Task.parse(name)) for name in config.tasks]
            for features in config.features
            for mixer in config.mixers
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """Numbers of every network at its best learning rate, and gated attention's lead.

        `TASK/dD/gla_over_retention`, and `gla_over_fla` with the control, is the difference of the
        two accuracies, each counted up to `stop_accuracy`: training ends there.
        """
        metrics: dict[str, float] = {}
        for result in results.values():
            key = f"{result['task']}/d{result['features']:04d}"
            metrics |= {
                f"{key}/{result['mixer']}/{name}": value for name, value in choose(result).items()
            }
        for name in [name for name in metrics if name.endswith("/gla/accuracy")]:
            key = name.removesuffix("/gla/accuracy")
            most = self.config.stop_accuracy
            for other in ("retention", CONTROL):
                value = metrics.get(f"{key}/{other}/accuracy")
                if value is not None:
                    metrics[f"{key}/gla_over_{other}"] = min(metrics[name], most) - min(value, most)
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Accuracy by size, a panel a task."""
        from experiments.gla.mqar.plots import draw_accuracies

        draw_accuracies(self.config, metrics, path)


def choose(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a network at the learning rate that is best on validation, seeds averaged.

    `accuracy_std` is the sample standard deviation over the seeds (0 for one seed).
    """
    best, _ = _best(result["validation_accuracy"])
    column = np.array(result["test_accuracy"])[:, best]
    return {
        "accuracy": float(column.mean()),
        "accuracy_std": float(column.std(ddof=1)) if len(column) > 1 else 0.0,
        "learning_rate": float(result["learning_rates"][best]),
        "epochs": float(result["epochs"]),
        "diverged_runs": float(np.sum(result["diverged"])),
        "parameters": float(result["parameters"]),
    }

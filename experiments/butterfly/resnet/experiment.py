"""The ResNet-18 experiment: a phase a layer and seed, an epoch a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.resnet.config import ResNetConfig
from experiments.butterfly.resnet.train import State, Trainer, accuracy, initialize, train_epoch
from experiments.data.cifar10 import load_cifar10
from experiments.data.images import ImageSet, synthetic_images
from experiments.experiment import Results


class Data:
    """The images of a config, loaded when they are first needed."""

    def __init__(self, config: ResNetConfig):
        self.config = config

    @cached_property
    def arrays(self) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Images uint8 and labels int32 of "train" and "test", on the device."""
        if self.config.synthetic:
            shape = (32, 32, 3)
            images = ImageSet(synthetic_images(64, shape), synthetic_images(32, shape, seed=1))
        else:
            images = load_cifar10()
        return {
            name: (jnp.asarray(split.pixels), jnp.asarray(split.labels.astype(np.int32)))
            for name, split in (("train", images.train), ("test", images.test))
        }


@dataclass(frozen=True)
class TrainNetwork:
    """One network."""

    config: ResNetConfig
    extra: str
    seed: int
    data: Data
    chunk: int = 1

    @property
    def name(self) -> str:
        """E.g. "bpbp_seed0"."""
        return f"{self.extra}_seed{self.seed}"

    @property
    def num_steps(self) -> int:
        """Epochs."""
        return self.config.epochs

    @cached_property
    def trainer(self) -> Trainer:
        """The network and how it is trained."""
        config = self.config
        return Trainer(
            self.extra,
            width=config.width,
            blocks=config.blocks,
            dtype=config.dtype,
            batch=config.batch,
            learning_rate=config.learning_rate,
            decay=config.decay,
            decay_epochs=config.decay_epochs,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )

    @property
    def keys(self) -> jax.Array:
        """Of the parameters, and of order and augmentation."""
        return jax.random.split(jax.random.fold_in(jax.random.key(self.config.seed), self.seed))

    def init(self) -> State:
        """Random parameters."""
        return initialize(self.trainer, self.keys[0])

    def advance(self, state: State, step: int, num: int) -> tuple[State, dict[str, float]]:
        """The next epochs; logs the loss of the last and the test accuracy after it."""
        loss = jnp.zeros(())
        for epoch in range(step, step + num):
            state, loss = train_epoch(
                self.trainer, state, self.keys[1], jnp.int32(epoch), *self.data.arrays["train"]
            )
        tested = accuracy(self.trainer, state, *self.data.arrays["test"])
        return state, {"loss": float(loss), "test_accuracy": 100 * float(tested)}

    def finish(self, state: State) -> dict[str, Any]:
        """Test accuracy in percent after the last epoch, and the number of parameters."""
        return {
            "extra": self.extra,
            "test_accuracy": 100 * float(accuracy(self.trainer, state, *self.data.arrays["test"])),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state["parameters"])),
        }


@dataclass(frozen=True)
class ResNetExperiment:
    """A phase a layer and seed."""

    config: ResNetConfig

    def phases(self) -> Sequence[TrainNetwork]:
        """Seed by seed, so that every layer has a number early."""
        data = Data(self.config)
        return [
            TrainNetwork(self.config, extra, seed, data)
            for seed in range(self.config.seeds)
            for extra in self.config.extra_layers
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """Mean and sample standard deviation over the seeds, and what the layers gain."""
        metrics: dict[str, float] = {}
        for extra in self.config.extra_layers:
            runs = [result for result in results.values() if result["extra"] == extra]
            values = np.array([run["test_accuracy"] for run in runs])
            metrics[f"{extra}/test_accuracy"] = float(values.mean())
            if len(values) > 1:
                metrics[f"{extra}/test_accuracy_std"] = float(values.std(ddof=1))
            metrics[f"{extra}/parameters"] = float(runs[0]["parameters"])
        base = metrics.get("none/test_accuracy")
        for extra in self.config.extra_layers:
            if base is not None and extra != "none":
                metrics[f"{extra}/gain_over_none"] = metrics[f"{extra}/test_accuracy"] - base
        return metrics

"""The runs of one network with fla's layer in PyTorch: the functions of `train`, for a control.

Examples, batches and their order, first parameters, learning rates, AdamW and the measure are those
of gated linear attention here; layer, op and framework are not. Runs are trained one after the
other. The state is of NumPy arrays, saved and restored as any other.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.gla import fla_packages
from experiments.gla.mqar import train
from experiments.gla.mqar.data import Examples
from structlayers.models import model_to_fla

_PARTS = ("first", "second")


@functools.lru_cache(maxsize=1)  # a captured step holds the memory of its activations
def _training(trainer: train.Trainer, length: int, pairs: int, device: str) -> Any:
    from experiments.gla.mqar.fla_network import Training

    return Training(trainer, length, pairs, device)


def _prepare(trainer: train.Trainer, examples: Examples) -> tuple[Any, Examples]:
    """The network on its device, and examples for it."""
    sizes = examples.tokens.shape[1], examples.places.shape[1]
    training = _training(trainer, *sizes, _device())
    return training, training.examples(examples)


def _device() -> str:
    fla_packages.require_fla("the mixer fla")
    return "cuda"


def initialize(trainer: train.Trainer, keys: jax.Array, rates: int) -> train.State:
    """First state: the parameters that gated linear attention here starts from.

    Args:
        trainer: the network, of "gla" mixers.
        keys: `(seeds,)` random keys.
        rates: number of learning rates.

    Raises:
        CommandError: fla cannot run here.
    """
    _device()
    state = train.initialize(trainer, keys, rates)

    def named(seed: int) -> dict[str, np.ndarray]:
        values = jax.tree.map(lambda leaf: leaf[seed, 0], state["parameters"])
        return model_to_fla(nnx.merge(trainer.graph, values))

    seeds = [named(seed) for seed in range(len(keys))]
    parameters = jax.tree.map(lambda *leaves: np.stack([np.stack(leaves)] * rates, 1), *seeds)
    return {
        "parameters": parameters,
        "optimizer": {part: jax.tree.map(np.zeros_like, parameters) for part in _PARTS},
        "accuracy": np.zeros((len(keys), rates), np.float32),
        "epochs": np.zeros((), np.int32),
    }


def _each_run(runs: tuple[int, ...], function: Callable[[int, int], Any]) -> Any:
    """Results of a function of seed and rate, stacked to `(seeds, rates, ...)`."""
    rows = [[function(seed, rate) for rate in range(runs[1])] for seed in range(runs[0])]
    stacked = [jax.tree.map(lambda *leaves: np.stack(leaves), *row) for row in rows]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *stacked)


def accuracy(trainer: train.Trainer, parameters: Any, examples: Examples) -> np.ndarray:
    """As `train.accuracy`.

    Raises:
        CommandError: fla cannot run here.
    """
    training, tensors = _prepare(trainer, examples)

    def one(seed: int, rate: int) -> np.float32:
        values = jax.tree.map(lambda leaf: leaf[seed, rate], parameters)
        training.load({"parameters": values})
        return np.float32(training.hits(tensors, train.PIECE) / examples.answers.size)

    return _each_run(next(iter(parameters.values())).shape[:2], one)


def train_epoch(
    trainer: train.Trainer,
    state: train.State,
    keys: jax.Array,
    rates: jax.Array,
    examples: Examples,
    validation: Examples,
) -> tuple[train.State, np.ndarray]:
    """As `train.train_epoch`.

    Raises:
        CommandError: fla cannot run here.
    """
    training, tensors = _prepare(trainer, examples)
    epoch = int(state["epochs"])
    count = len(examples.tokens)
    steps = count // trainer.batch
    done = epoch * steps
    decay = trainer.decay(steps)(jnp.arange(done, done + steps).astype(jnp.float32))

    def one(seed: int, rate: int) -> tuple[Any, np.ndarray]:
        run = {"parameters": state["parameters"], **state["optimizer"]}
        training.load(jax.tree.map(lambda leaf: leaf[seed, rate], run))
        order = train.order_of_epoch(keys[seed], epoch, count, trainer.batch)
        losses = training.train(tensors, np.asarray(order), np.asarray(rates[rate] * decay), done)
        return training.read(), losses.mean()

    runs, losses = _each_run(state["accuracy"].shape, one)
    new_state = {
        "parameters": runs["parameters"],
        "optimizer": {part: runs[part] for part in _PARTS},
        "accuracy": accuracy(trainer, runs["parameters"], validation),
        "epochs": np.asarray(epoch + 1, np.int32),
    }
    return new_state, losses

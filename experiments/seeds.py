"""Trainings of several seeds side by side: parameters as one vector, scanned epochs, best kept.

Arrays of a state have a leading axis of seeds. An epoch is one scan on the device, a call is a scan
over epochs; the host sees the end of the last.
"""

import abc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

type State = dict[str, Any]
type Scalars = dict[str, jax.Array]


class ParameterVector[Model: nnx.Module]:
    """The parameters of a model as one vector: an update is a few kernels, not some an array.

    Args:
        make: a model with random parameters, from a key.

    Example:
        >>> found = ParameterVector(lambda key: nnx.Linear(2, 3, rngs=nnx.Rngs(key)))
        >>> vector = found.init(jax.random.key(0))
        >>> vector.shape, found.merge(vector)(jnp.ones(2)).shape
        ((9,), (3,))
    """

    def __init__(self, make: Callable[[jax.Array], Model]):
        self.make = make
        self._graph, state = nnx.split(nnx.eval_shape(lambda: make(jax.random.key(0))))
        self.shapes: Any = nnx.to_pure_dict(state)

    @property
    def size(self) -> int:
        """Parameters there are."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    def init(self, key: jax.Array) -> jax.Array:
        """Random parameters."""
        found = nnx.to_pure_dict(nnx.state(self.make(key)))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

    def arrays(self, vector: jax.Array) -> Any:
        """The parameters by name."""
        leaves, structure = jax.tree.flatten(self.shapes)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = zip(jnp.split(vector, ends), leaves, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in parts])

    def merge(self, vector: jax.Array) -> Model:
        """The model with these parameters."""
        return nnx.merge(self._graph, self.arrays(vector))


def batch_indices(key: jax.Array, epoch: jax.Array, size: int, batch: int) -> jax.Array:
    """An order of an epoch, `(size // batch, batch)`; what is beyond whole batches rests.

    Args:
        key: of a seed.
        epoch: number of the epoch; with the key it gives the order.
        size: examples there are.
        batch: examples of a step.
    """
    steps = size // batch
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    return order[: steps * batch].reshape(steps, batch)


def keep_best(state: dict[str, Any], candidate: jax.Array, loss: jax.Array) -> dict[str, jax.Array]:
    """The entries "best" and "best_loss" after another candidate."""
    better = loss < state["best_loss"]
    return {
        "best": jnp.where(better, candidate, state["best"]),
        "best_loss": jnp.where(better, loss, state["best_loss"]),
    }


@partial(jax.jit, static_argnames=("trainer", "num"), donate_argnames="state")
def train_epochs(
    trainer: Any,
    state: State,
    keys: jax.Array,
    first: jax.Array,
    train: Any,
    validation: Any,
    *,
    num: int,
) -> tuple[State, Scalars]:
    """Some epochs of all seeds; examples beyond a whole number of batches rest in an epoch.

    Args:
        trainer: its `run_epoch(train, validation, key, state, epoch)` is one epoch of one seed.
        state: of all seeds.
        keys: `(seeds,)` random keys of the orders.
        first: number of the first epoch; with the key it gives the order of the examples.
        train: examples to train on.
        validation: examples to validate on.
        num: epochs.

    Returns:
        The new state, and what the last epoch logs, `(seeds,)` each.
    """
    run = partial(trainer.run_epoch, train, validation)

    def one(state: State, key: jax.Array) -> tuple[State, Scalars]:
        return jax.lax.scan(partial(run, key), state, first + jnp.arange(num, dtype=jnp.int32))

    state, logged = jax.vmap(one)(state, keys)
    return state, jax.tree.map(lambda values: values[:, -1], logged)


def call_milliseconds(train: Callable[[Any], Any], state: Any, repeats: int = 2) -> float:
    """The fastest of some calls of a compiled training, each on a copy of the state."""
    seconds = []
    for _ in range(repeats):
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        start = time.perf_counter()
        jax.block_until_ready(train(copy))
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


class SeedsConfig(Protocol):
    """What a config says of such a training."""

    @property
    def seed(self) -> int:
        """Of all random keys."""
        ...

    @property
    def seeds(self) -> int:
        """Trainings side by side."""
        ...

    @property
    def epochs(self) -> int:
        """Of the whole training."""
        ...

    @property
    def epochs_per_call(self) -> int:
        """Between two looks of the host."""
        ...

    @property
    def batch(self) -> int:
        """Examples of a step."""
        ...


@dataclass(frozen=True)
class SeedsPhase[Config: SeedsConfig](abc.ABC):
    """All seeds of one training as a phase of an experiment: an epoch is a step.

    Attributes:
        config: see `SeedsConfig`.
    """

    config: Config

    @property
    @abc.abstractmethod
    def trainer(self) -> Any:
        """See `train_epochs`."""

    @property
    @abc.abstractmethod
    def examples(self) -> tuple[Any, Any]:
        """To train on and to validate on."""

    @property
    def num_steps(self) -> int:
        """Epochs."""
        return self.config.epochs

    @property
    def chunk(self) -> int:
        """Epochs of one call."""
        return self.config.epochs_per_call

    @property
    def keys(self) -> jax.Array:
        """Two keys a seed: of the parameters and of the order of examples, (2, seeds)."""
        return jax.random.split(jax.random.key(self.config.seed), (2, self.config.seeds))

    def _train(self, state: State, step: int, num: int) -> tuple[State, Scalars]:
        return train_epochs(
            self.trainer, state, self.keys[1], jnp.int32(step), *self.examples, num=num
        )

    def advance(self, state: State, step: int, num: int) -> tuple[State, dict[str, float]]:
        """The next epochs; logs the means over the seeds of the last."""
        state, logged = self._train(state, step, num)
        return state, {name: float(np.mean(values)) for name, values in logged.items()}

    def step_milliseconds(self, state: State, repeats: int = 2) -> float:
        """Time of one step of all seeds: the fastest of further calls on copies of the state."""
        steps = self.examples[0].size // self.config.batch
        call = call_milliseconds(lambda state: self._train(state, 0, self.chunk), state, repeats)
        return call / (steps * self.chunk)

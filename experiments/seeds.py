"""Trainings of several seeds side by side: parameters as one vector, scanned epochs, best kept.

Arrays of a state have a leading axis of seeds. An epoch is one scan on the device, a call is a scan
over epochs; the host sees the end of the last.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

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


def scan_epochs[State](
    epoch: Callable[[jax.Array, State, jax.Array], tuple[State, Scalars]],
    state: State,
    keys: jax.Array,
    first: jax.Array,
    num: int,
) -> tuple[State, Scalars]:
    """Some epochs of all seeds.

    Args:
        epoch: one of one seed, from its key, its state and the number of the epoch.
        state: of all seeds.
        keys: `(seeds,)` random keys.
        first: number of the first epoch.
        num: epochs.

    Returns:
        The new state, and what the last epoch logs, `(seeds,)` each.
    """

    def one(state: State, key: jax.Array) -> tuple[State, Scalars]:
        return jax.lax.scan(partial(epoch, key), state, first + jnp.arange(num, dtype=jnp.int32))

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

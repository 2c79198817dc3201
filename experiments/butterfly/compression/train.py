"""Training of all runs of a method at once: SGD with momentum, vmapped over seeds and rates.

A run is one seed at one learning rate. Arrays of the state have the leading axes (seeds, rates);
runs of one seed see the same batches in the same order.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.butterfly.compression.data import Rows
from experiments.butterfly.compression.methods import SingleHiddenLayer

type State = dict[str, Any]
"""Parameters, momentum, and the parameters of the epoch that was best on validation, each a pytree
with leading (seeds, rates); "best_accuracy" and "best_epoch", (seeds, rates)."""

_CHUNK = 1000  # rows evaluated at once, at most


@dataclass(frozen=True)
class Trainer:
    """One method, compiled once for all its runs.

    Attributes:
        method: key of `methods.METHODS`.
        n: size of input and hidden layer.
        use_bias: whether the hidden layer has a bias.
        precision: of all products: "default" is TF32 on GPUs that have it.
        momentum: of SGD.
        batch: rows of a step.
    """

    method: str
    n: int
    use_bias: bool
    precision: str
    momentum: float
    batch: int

    def model(self, key: jax.Array) -> SingleHiddenLayer:
        """A network with random parameters."""
        return SingleHiddenLayer(
            self.method,
            self.n,
            use_bias=self.use_bias,
            precision=self.precision,
            rngs=nnx.Rngs(key),
        )

    @cached_property
    def graph(self) -> Any:
        """The network without its parameters."""
        return nnx.split(nnx.eval_shape(lambda: self.model(jax.random.key(0))))[0]

    def logits(self, parameters: Any, features: jax.Array) -> jax.Array:
        """Of one run: `(rows, classes)`."""
        return nnx.merge(self.graph, parameters)(features)


@partial(jax.jit, static_argnames=("trainer", "rates"))
def initialize(trainer: Trainer, keys: jax.Array, rates: int) -> State:
    """First state: runs of one seed start from the same parameters.

    Args:
        trainer: the method.
        keys: `(seeds,)` random keys.
        rates: number of learning rates.
    """

    def one(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(trainer.model(key)))

    parameters = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[:, None], rates, axis=1), jax.vmap(one)(keys)
    )
    shape = (len(keys), rates)
    return {
        "parameters": parameters,
        "momentum": jax.tree.map(jnp.zeros_like, parameters),
        "best": parameters,
        "best_accuracy": jnp.full(shape, -1.0, jnp.float32),
        "best_epoch": jnp.zeros(shape, jnp.int32),
    }


@partial(jax.jit, static_argnames="trainer")
def accuracy(trainer: Trainer, parameters: Any, rows: Rows) -> jax.Array:
    """Share of rows of which the largest logit is the label's: `(seeds, rates)`.

    A run with a logit that is not finite has accuracy 0 on those rows.
    """
    count = len(rows.labels)
    chunks = -(-count // _CHUNK)
    chunk = -(-count // chunks)
    pad = chunks * chunk - count
    features = jnp.pad(rows.features, [(0, pad), (0, 0)]).reshape(chunks, chunk, -1)
    labels = jnp.pad(rows.labels, (0, pad), constant_values=-1).reshape(chunks, chunk)

    def hits(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        def one(values: Any) -> jax.Array:
            logits = trainer.logits(values, piece[0])
            right = jnp.argmax(logits, axis=-1).astype(jnp.int32) == piece[1]
            return jnp.sum(right & jnp.isfinite(logits).all(axis=-1), dtype=jnp.int32)

        return jax.vmap(jax.vmap(one))(parameters)

    hit = jax.lax.map(hits, (features, labels)).sum(axis=0)
    return hit.astype(jnp.float32) / jnp.float32(count)


@partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_epoch(
    trainer: Trainer,
    state: State,
    keys: jax.Array,
    rates: jax.Array,
    epoch: jax.Array,
    train: Rows,
    validation: Rows,
) -> tuple[State, jax.Array, jax.Array]:
    """One pass over the training rows, then validation.

    Args:
        trainer: the method.
        state: of all runs.
        keys: `(seeds,)` random keys of the orders.
        rates: `(rates,)` learning rates.
        epoch: its number, counted from 0; with the key it gives the order of the rows.
        train: rows to train on; those beyond a whole number of batches rest in this epoch.
        validation: rows to validate on.

    Returns:
        The new state, the mean loss of the epoch and the validation accuracy, `(seeds, rates)`.
    """
    optimizer = optax.trace(trainer.momentum)
    steps = len(train.labels) // trainer.batch

    def orders(key: jax.Array) -> jax.Array:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(train.labels))
        return order[: steps * trainer.batch].reshape(steps, trainer.batch)

    def loss(parameters: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
        logits = trainer.logits(parameters, features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(
        parameters: Any, momentum: Any, rate: jax.Array, features: jax.Array, labels: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(parameters, features, labels)
        # the momentum is both what optax.trace gives out and its state
        momentum, _ = optimizer.update(gradients, optax.TraceState(momentum))
        updates = jax.tree.map(lambda leaf: -rate * leaf, momentum)
        return optax.apply_updates(parameters, updates), momentum, value

    update_all = jax.vmap(
        jax.vmap(update, in_axes=(0, 0, 0, None, None)), in_axes=(0, 0, None, 0, 0)
    )

    def step(carry: tuple[Any, Any, jax.Array], index: jax.Array) -> tuple[Any, None]:
        parameters, momentum, total = carry
        batch = (train.features[index], train.labels[index])
        parameters, momentum, value = update_all(parameters, momentum, rates, *batch)
        return (parameters, momentum, total + value), None

    start = (state["parameters"], state["momentum"], jnp.zeros_like(state["best_accuracy"]))
    order = jax.vmap(orders, out_axes=1)(keys)  # steps seeds batch
    (parameters, momentum, total), _ = jax.lax.scan(step, start, order)
    found = accuracy(trainer, parameters, validation)
    better = found > state["best_accuracy"]

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 2)), new, old)

    new_state = {
        "parameters": parameters,
        "momentum": momentum,
        "best": jax.tree.map(keep, parameters, state["best"]),
        "best_accuracy": keep(found, state["best_accuracy"]),
        "best_epoch": keep(jnp.broadcast_to(epoch, better.shape), state["best_epoch"]),
    }
    return new_state, total / jnp.float32(steps), found

"""Training of all runs of one network at once: AdamW, vmapped over seeds and learning rates.

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

from experiments.gla.mqar.data import Examples
from experiments.gla.mqar.products import untransposed
from experiments.language_model.losses import cross_entropy
from structlayers.models import LanguageModel, LanguageModelConfig

type State = dict[str, Any]
"""Parameters and state of the optimiser, pytrees with leading (seeds, rates); "accuracy" on the
validation examples, (seeds, rates); "epochs" trained, a number."""

PIECE = 250  # examples evaluated at once, at most


@dataclass(frozen=True)
class Trainer:
    """One network, compiled once for all its runs.

    Attributes:
        model: sizes and options of the network.
        batch: examples of a step.
        epochs: after which the learning rate is 0.
        weight_decay: of AdamW.
    """

    model: LanguageModelConfig
    batch: int
    epochs: int
    weight_decay: float

    def network(self, key: jax.Array) -> LanguageModel:
        """A network with random parameters."""
        return LanguageModel(self.model, rngs=nnx.Rngs(key))

    @cached_property
    def graph(self) -> Any:
        """The network without its parameters."""
        network = nnx.eval_shape(lambda: self.network(jax.random.key(0)))
        untransposed(network)
        return nnx.split(network)[0]

    @property
    def optimizer(self) -> Any:
        """AdamW at learning rate 1; that of the run is multiplied to its updates."""
        return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(self.weight_decay))

    def decay(self, steps: int) -> optax.Schedule:
        """Factor of the learning rate by the number of a step, at `steps` an epoch."""
        return optax.cosine_decay_schedule(1.0, self.epochs * steps)

    def logits(self, parameters: Any, examples: Examples) -> jax.Array:
        """Of one run at the queries alone: `(examples, P, vocab_size)`."""
        network = nnx.merge(self.graph, parameters)
        return network.logits(network.hidden(examples.tokens, places=examples.places))

    def loss(self, parameters: Any, examples: Examples) -> jax.Array:
        """Of one run: mean of `-log p` of the answers."""
        return cross_entropy(self.logits(parameters, examples), examples.answers).mean()


def order_of_epoch(key: jax.Array, epoch: jax.Array | int, count: int, batch: int) -> jax.Array:
    """Which of `count` examples make each batch of an epoch: int32 `(steps, batch)`."""
    steps = count // batch
    found = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    return found[: steps * batch].reshape(steps, batch)


@partial(jax.jit, static_argnames=("trainer", "rates"))
def initialize(trainer: Trainer, keys: jax.Array, rates: int) -> State:
    """First state: runs of one seed start from the same parameters.

    Args:
        trainer: the network.
        keys: `(seeds,)` random keys.
        rates: number of learning rates.
    """

    def one(key: jax.Array) -> tuple[Any, Any]:
        parameters = nnx.to_pure_dict(nnx.state(trainer.network(key)))
        return parameters, trainer.optimizer.init(parameters)

    parameters, optimizer = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[:, None], rates, axis=1), jax.vmap(one)(keys)
    )
    return {
        "parameters": parameters,
        "optimizer": optimizer,
        "accuracy": jnp.zeros((len(keys), rates), jnp.float32),
        "epochs": jnp.zeros((), jnp.int32),
    }


@partial(jax.jit, static_argnames="trainer")
def accuracy(trainer: Trainer, parameters: Any, examples: Examples) -> jax.Array:
    """Share of queries whose answer has the largest logit: `(seeds, rates)`.

    A run with a logit that is not finite has accuracy 0 at that query.
    """

    def hits(piece: Examples) -> jax.Array:
        def one(values: Any) -> jax.Array:
            logits = trainer.logits(values, piece)
            right = jnp.argmax(logits, axis=-1).astype(jnp.int32) == piece.answers
            return jnp.sum(right & jnp.isfinite(logits).all(axis=-1), dtype=jnp.int32)

        return jax.vmap(jax.vmap(one))(parameters)

    count = len(examples.tokens)
    pieces = -(-count // PIECE)
    size = -(-count // pieces)
    pad = pieces * size - count

    def cut(array: jax.Array, fill: int) -> jax.Array:
        padded = jnp.pad(array, [(0, pad), (0, 0)], constant_values=fill)
        return padded.reshape(pieces, size, -1)

    # no word is -1: examples that fill up the last piece are never right
    piece = Examples(cut(examples.tokens, 0), cut(examples.places, 0), cut(examples.answers, -1))
    hit = jax.lax.map(hits, piece).sum(axis=0)
    return hit.astype(jnp.float32) / jnp.float32(examples.answers.size)


@partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_epoch(
    trainer: Trainer,
    state: State,
    keys: jax.Array,
    rates: jax.Array,
    train: Examples,
    validation: Examples,
) -> tuple[State, jax.Array]:
    """One pass over the training examples, then validation.

    The learning rate falls by a cosine from its value to 0 over all epochs; the loss is that of the
    queries alone.

    Args:
        trainer: the network.
        state: of all runs.
        keys: `(seeds,)` random keys; with the number of the epoch they give the order.
        rates: `(rates,)` learning rates.
        train: examples to train on; those beyond a whole number of batches rest in this epoch.
        validation: examples to validate on.

    Returns:
        The new state, and the mean loss of the epoch, `(seeds, rates)`.
    """
    steps = len(train.tokens) // trainer.batch
    epoch = state["epochs"]
    decay = trainer.decay(steps)

    def order(key: jax.Array) -> jax.Array:
        return order_of_epoch(key, epoch, len(train.tokens), trainer.batch)

    def update(
        parameters: Any, optimizer: Any, rate: jax.Array, batch: Examples
    ) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(trainer.loss)(parameters, batch)
        updates, optimizer = trainer.optimizer.update(gradients, optimizer, parameters)
        updates = jax.tree.map(lambda leaf: -rate * leaf, updates)
        return optax.apply_updates(parameters, updates), optimizer, value

    update_all = jax.vmap(
        jax.vmap(update, in_axes=(0, 0, 0, None)),
        in_axes=(0, 0, None, 0),
    )

    def step(carry: tuple[Any, Any], chosen: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        index, number = chosen
        batch = jax.tree.map(lambda array: array[index], train)  # seeds batch ...
        parameters, optimizer, value = update_all(*carry, rates * decay(number), batch)
        return (parameters, optimizer), value

    numbers = (epoch * steps + jnp.arange(steps)).astype(jnp.float32)
    start = (state["parameters"], state["optimizer"])
    (parameters, optimizer), values = jax.lax.scan(
        step, start, (jax.vmap(order, out_axes=1)(keys), numbers)
    )
    new_state = {
        "parameters": parameters,
        "optimizer": optimizer,
        "accuracy": accuracy(trainer, parameters, validation),
        "epochs": epoch + 1,
    }
    return new_state, values.mean(axis=0)

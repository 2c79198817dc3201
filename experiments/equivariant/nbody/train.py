"""Training of all seeds of one network at once: Adam on the squared error, scanned epochs."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.equivariant.nbody.network import ParticleNetwork
from experiments.equivariant.nbody.systems import Systems, take
from experiments.seeds import ParameterVector, State, batch_indices, keep_best

# A state holds "parameters", "memory" of Adam, and "best", the parameters with the least error on
# the validation systems, "best_loss"; each with a leading axis of seeds. The parameters of a seed
# are one vector.


@dataclass(frozen=True)
class Trainer:
    """One network and how it is trained.

    Attributes:
        product: see `ParticleNetwork`.
        channels: see `ParticleNetwork`.
        lmax: see `ParticleNetwork`.
        attribute_lmax: see `ParticleNetwork`.
        layers: see `ParticleNetwork`.
        precision: see `ParticleNetwork`.
        batch: systems of a step.
        epochs: of the whole training; where the cosine ends.
        learning_rate: of Adam, at the start.
        schedule: "constant", or "cosine", which lets the rate fall to 0 over all epochs.
    """

    product: str
    channels: int
    lmax: int
    attribute_lmax: int
    layers: int
    precision: str
    batch: int
    epochs: int
    learning_rate: float
    schedule: str

    def network(self, key: jax.Array) -> ParticleNetwork:
        """A network with random parameters."""
        return ParticleNetwork(
            self.product,
            self.channels,
            self.lmax,
            self.attribute_lmax,
            self.layers,
            precision=self.precision,
            rngs=nnx.Rngs(key),
        )

    @cached_property
    def vector(self) -> ParameterVector[ParticleNetwork]:
        """The parameters of one seed as one vector."""
        return ParameterVector(self.network)

    def rate(self, epoch: jax.Array) -> jax.Array:
        """Learning rate of an epoch."""
        if self.schedule == "constant":
            return jnp.asarray(self.learning_rate)
        return jnp.asarray(optax.cosine_decay_schedule(self.learning_rate, self.epochs)(epoch))

    def loss(self, parameters: jax.Array, systems: Systems) -> jax.Array:
        """Mean squared error of all components, of one seed."""
        return jnp.mean((self.vector.merge(parameters)(systems) - systems.displacement) ** 2)

    def run_epoch(
        self,
        train: Systems,
        validation: Systems,
        key: jax.Array,
        state: State,
        epoch: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        """One pass over the training systems of one seed, then validation."""
        rate = self.rate(epoch)

        def step(carry: tuple[jax.Array, Any], index: jax.Array) -> tuple[Any, jax.Array]:
            parameters, memory = carry
            value, gradient = jax.value_and_grad(self.loss)(parameters, take(train, index))
            updates, memory = optax.scale_by_adam().update(gradient, memory)
            change = rate.astype(value.dtype) * jnp.asarray(updates)
            return (parameters - change, memory), value

        order = batch_indices(key, epoch, train.size, self.batch)
        carry = (state["parameters"], state["memory"])
        (parameters, memory), losses = jax.lax.scan(step, carry, order)
        found = self.loss(parameters, validation)
        state = {"parameters": parameters, "memory": memory, **keep_best(state, parameters, found)}
        return state, {"loss": losses.mean(), "validation_loss": found}


def initialize(trainer: Trainer, keys: jax.Array) -> State:
    """First state of every seed, from `(seeds,)` random keys.

    Not compiled as a whole: many small random arrays of few shapes.
    """

    def one(key: jax.Array) -> State:
        parameters = trainer.vector.init(key)
        return {
            "parameters": parameters,
            "memory": optax.scale_by_adam().init(parameters),
            "best": jnp.copy(parameters),  # not the same buffer: both are donated
            "best_loss": jnp.asarray(jnp.inf, parameters.dtype),
        }

    return jax.vmap(one)(keys)


@partial(jax.jit, static_argnames="trainer")
def losses(trainer: Trainer, parameters: jax.Array, systems: Systems) -> jax.Array:
    """Mean squared errors `(seeds,)` of all seeds."""
    return jax.vmap(trainer.loss, in_axes=(0, None))(parameters, systems)

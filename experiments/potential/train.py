"""Training of all seeds of one potential at once, on energies and forces, scanned epochs.

Arrays of the state have a leading axis of seeds, which differ in parameters and in the order of the
frames. An epoch is one scan on the device; the host sees the end of some epochs.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.potential.frames import Frames, take
from experiments.potential.muon import scale_by_muon
from experiments.seeds import ParameterVector, State, batch_indices, keep_best
from structlayers.models.interatomic_potential import (
    InteratomicPotential,
    InteratomicPotentialConfig,
    Prediction,
)

# A state holds "parameters", "average" of them, "memory" of the update, "plateau", and "best", the
# average with the least loss on the validation frames, "best_loss", "steps"; each with a leading
# axis of seeds. The parameters of a seed are one vector: an update is a few kernels, not a few for
# every array.

# Parameters that weight decay acts on: those that mix channels after a sum over neighbours.
DECAYED = ("mix", "weights", "update")


@dataclass(frozen=True)
class Trainer:
    """One potential and how it is trained.

    Attributes:
        model: the potential.
        batch: frames of a step.
        epochs: of the whole training; where the cosine ends.
        learning_rate: at the start.
        schedule: "plateau" multiplies the rate by `factor` after `patience` epochs without a better
            validation loss; "cosine" lets it fall to 0 over all epochs.
        factor: see `schedule`.
        patience: see `schedule`.
        weight_decay: times the parameter, added to the gradient of those in `DECAYED`.
        average_decay: d of the moving average of the parameters, at most (1 + n) / (10 + n).
        energy_weight: of the mean squared error of the energy by atom.
        force_weight: of the mean squared error of the forces' components.
        clip: largest norm of a gradient.
        optimizer: "amsgrad", or "muon" for the matrices that mix channels.
    """

    model: InteratomicPotentialConfig
    batch: int
    epochs: int
    learning_rate: float
    schedule: str
    factor: float
    patience: int
    weight_decay: float
    average_decay: float
    energy_weight: float
    force_weight: float
    clip: float
    optimizer: str = "amsgrad"

    def potential(self, key: jax.Array) -> InteratomicPotential:
        """A potential with random parameters."""
        return InteratomicPotential(self.model, rngs=nnx.Rngs(key))

    @cached_property
    def vector(self) -> ParameterVector[InteratomicPotential]:
        """The parameters of one seed as one vector."""
        return ParameterVector(self.potential)

    @cached_property
    def _decayed(self) -> np.ndarray:
        """Which entries of the vector weight decay acts on."""
        shapes = self.vector.shapes
        chosen = zip(jax.tree.leaves(decayed(shapes)), jax.tree.leaves(shapes), strict=True)
        return np.concatenate([np.full(leaf.size, on) for on, leaf in chosen])

    @property
    def transformation(self) -> Any:
        """The update without the learning rate, which comes with the step."""

        def decay(updates: Any, parameters: Any) -> Any:
            return updates + self.weight_decay * jnp.where(self._decayed, parameters, 0)

        muon = self.optimizer == "muon"
        scale = scale_by_muon(self.vector) if muon else optax.scale_by_amsgrad()
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.stateless(decay), scale)

    @property
    def plateau(self) -> Any:
        """What lowers the learning rate; its updates are not used, only its scale."""
        return optax.contrib.reduce_on_plateau(factor=self.factor, patience=self.patience)

    def rate(self, epoch: jax.Array, plateau: Any) -> jax.Array:
        """Learning rate of an epoch."""
        if self.schedule == "plateau":
            return self.learning_rate * plateau.scale
        return jnp.asarray(optax.cosine_decay_schedule(self.learning_rate, self.epochs)(epoch))

    def predict(self, parameters: jax.Array, frames: Frames) -> Prediction:
        """Energies and forces of some frames, of one seed."""
        return self.vector.merge(parameters).predict(frames.graph.flatten())

    def loss(self, parameters: jax.Array, frames: Frames) -> jax.Array:
        """Weighted mean squared errors, of one seed."""
        found = self.predict(parameters, frames)
        mask = frames.graph.atom_mask
        atoms = mask.sum(axis=1).astype(frames.energy.dtype)
        energy = jnp.mean(((found.energy - frames.energy) / atoms) ** 2)
        errors = (found.forces - frames.forces.reshape(-1, 3)) ** 2
        forces = jnp.sum(errors * mask.reshape(-1, 1)) / (3 * atoms.sum())
        return self.energy_weight * energy + self.force_weight * forces

    def run_epoch(
        self,
        train: Frames,
        validation: Frames,
        key: jax.Array,
        state: State,
        epoch: jax.Array,
    ) -> tuple[State, dict[str, jax.Array]]:
        """One pass over the training frames of one seed, then validation of the average."""
        order = batch_indices(key, epoch, train.size, self.batch)
        rate = self.rate(epoch, state["plateau"])

        def step(state: State, index: jax.Array) -> tuple[State, jax.Array]:
            return _step(self, rate, state, take(train, index))

        state, losses = jax.lax.scan(step, state, order)
        found = self.loss(state["average"], validation)
        _, plateau = self.plateau.update(state["parameters"], state["plateau"], value=found)
        state = {**state, "plateau": plateau, **keep_best(state, state["average"], found)}
        return state, {"loss": losses.mean(), "validation_loss": found, "learning_rate": rate}


def decayed(parameters: Any) -> Any:
    """Whether weight decay acts on each parameter."""

    def is_decayed(path: Any, _: Any) -> bool:
        keys = [str(getattr(entry, "key", "")) for entry in path]
        return "interactions" in keys and any(name in keys for name in DECAYED)

    return jax.tree_util.tree_map_with_path(is_decayed, parameters)


# Random numbers of many shapes compile slowly where all optimisations are on, and run once.
_BRIEFLY = {"xla_backend_optimization_level": 1}


@partial(jax.jit, static_argnames="trainer", compiler_options=_BRIEFLY)
def initialize(trainer: Trainer, keys: jax.Array) -> State:
    """First state of every seed.

    Args:
        trainer: the potential.
        keys: `(seeds,)` random keys.
    """

    def one(key: jax.Array) -> State:
        parameters = trainer.vector.init(key)
        return {
            "parameters": parameters,
            "average": parameters,
            "memory": trainer.transformation.init(parameters),
            "plateau": trainer.plateau.init(parameters),
            "best": parameters,
            "best_loss": jnp.asarray(jnp.inf, trainer.model.dtype),
            "steps": jnp.zeros((), jnp.int32),
        }

    return jax.vmap(one)(keys)


def _step(
    trainer: Trainer, rate: jax.Array, state: State, batch: Frames
) -> tuple[State, jax.Array]:
    value, gradients = jax.value_and_grad(trainer.loss)(state["parameters"], batch)
    updates, memory = trainer.transformation.update(gradients, state["memory"], state["parameters"])
    parameters = state["parameters"] - rate.astype(value.dtype) * updates
    steps = state["steps"].astype(value.dtype)
    decay = jnp.minimum(trainer.average_decay, (1 + steps) / (10 + steps)).astype(value.dtype)
    average = decay * state["average"] + (1 - decay) * parameters
    changed = {"parameters": parameters, "average": average, "memory": memory}
    return {**state, **changed, "steps": state["steps"] + 1}, value


@partial(jax.jit, static_argnames=("trainer", "chunk"))
def predict_all(
    trainer: Trainer, parameters: Any, frames: Frames, *, chunk: int = 50
) -> tuple[jax.Array, jax.Array]:
    """Energies `(seeds, F)` and forces `(seeds, F, N, 3)` of all frames, `chunk` at a time."""
    count = frames.size
    pieces = -(-count // chunk)
    # the last piece is filled up with frames that are predicted twice
    index = (jnp.arange(pieces * chunk) % count).reshape(pieces, chunk)

    def one(parameters: Any) -> tuple[jax.Array, jax.Array]:
        def piece(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = trainer.predict(parameters, take(frames, index))
            return found.energy, found.forces.reshape(chunk, -1, 3)

        return jax.lax.map(piece, index)

    energy, forces = jax.vmap(one)(parameters)
    seeds, size = len(energy), pieces * chunk
    return (
        energy.reshape(seeds, size)[:, :count],
        forces.reshape(seeds, size, *forces.shape[-2:])[:, :count],
    )

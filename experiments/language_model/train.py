"""Training: parameters and optimiser state on a mesh, and one step of AdamW on a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.language_model import mesh as meshes
from experiments.language_model.losses import cross_entropy
from structlayers.models import LanguageModel, LanguageModelConfig

type State = dict[str, Any]
""""parameters" and "optimizer" (float32), "step", and "recent", the losses of the last steps."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up, cosine decay and clipping.

    Attributes:
        learning_rate: largest.
        final_learning_rate: at the end.
        warmup: steps of linear growth from 0.
        steps: of the run.
        weight_decay: of matrices; not of norms and biases.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        clip: largest norm of all gradients together.
    """

    learning_rate: float
    final_learning_rate: float
    warmup: int
    steps: int
    weight_decay: float
    beta1: float
    beta2: float
    clip: float

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.warmup, self.steps, self.final_learning_rate
        )

    @property
    def transformation(self) -> optax.GradientTransformation:
        """Of gradients to updates."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(
                self.schedule,
                b1=self.beta1,
                b2=self.beta2,
                weight_decay=self.weight_decay,
                mask=decayed,
            ),
        )


def decayed(parameters: Any) -> Any:
    """Whether weight decay acts on each parameter: on matrices, not on norms and biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


@dataclass(frozen=True)
class Trainer:
    """One model, where it lies and how it is trained.

    Attributes:
        model: its sizes; float32 parameters, `dtype` in the computation.
        optimizer: of the parameters.
        mesh: with the axes of `mesh.AXES`.
        loss_chunk: tokens of each sequence whose logits are held at once.
        recent: steps of which the losses are kept in the state.
    """

    model: LanguageModelConfig
    optimizer: Optimizer
    mesh: Mesh
    loss_chunk: int
    recent: int

    def parameters(self, key: jax.Array) -> nnx.State:
        """Random parameters with their metadata."""
        return nnx.state(LanguageModel(self.model, rngs=nnx.Rngs(key)), nnx.Param)

    @cached_property
    def graph(self) -> Any:
        """The model without its parameters."""
        return self._graph(self.model)

    @cached_property
    def graph_of_a_run(self) -> Any:
        """The same, called with a run of every sequence inside `jax.shard_map`."""
        return self._graph(replace(self.model, sequence_axis=meshes.SEQUENCE))

    def _graph(self, model: LanguageModelConfig) -> Any:
        with self.on_mesh():
            build = partial(LanguageModel, model)
            return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), nnx.Param)[0]

    def merge(self, parameters: Any) -> LanguageModel:
        """The model with these parameters."""
        return nnx.merge(self.graph, parameters)

    def loss(self, parameters: Any, tokens: jax.Array) -> jax.Array:
        """Mean of `-log p` over all tokens of a batch `(B, T + 1)`, in nats."""
        inputs, wanted = tokens[:, :-1], tokens[:, 1:]
        if self.mesh.shape[meshes.SEQUENCE] == 1:
            return _losses(self.merge(parameters), inputs, wanted, self.loss_chunk).mean()

        graph = self.graph_of_a_run

        def of_a_run(parameters: Any, inputs: jax.Array, wanted: jax.Array) -> jax.Array:
            model = nnx.merge(graph, parameters)
            found = _losses(model, inputs, wanted, self.loss_chunk)
            return jax.lax.pmean(found.mean(), meshes.SEQUENCE)

        time = PartitionSpec(None, meshes.SEQUENCE)
        return jax.shard_map(
            of_a_run,
            in_specs=(PartitionSpec(), time, time),
            out_specs=PartitionSpec(),
            axis_names={meshes.SEQUENCE},
        )(parameters, inputs, wanted)

    @contextmanager
    def on_mesh(self) -> Iterator[None]:
        """In which functions of arrays on the mesh are called; stays as it is where it is set."""
        if jax.sharding.get_abstract_mesh() == self.mesh.abstract_mesh:
            yield
        else:
            with jax.set_mesh(self.mesh):
                yield

    @property
    def batch_sharding(self) -> NamedSharding:
        """Of a batch `(A, B / A, T + 1)`."""
        return NamedSharding(self.mesh, meshes.BATCH)

    def state(self, key: jax.Array) -> State:
        """First state."""
        parameters = nnx.to_pure_dict(self.parameters(key))
        return {
            "parameters": parameters,
            "optimizer": self.optimizer.transformation.init(parameters),
            "step": jnp.zeros((), jnp.int32),
            "recent": jnp.zeros(self.recent, jnp.float32),
        }

    @cached_property
    def shardings(self) -> State:
        """Of a state.

        Raises:
            CommandError: the mesh does not divide a parameter.
        """
        with self.on_mesh():
            abstract = jax.eval_shape(self.parameters, jax.random.key(0))
            state = jax.eval_shape(self.state, jax.random.key(0))
        parameters = meshes.parameter_shardings(self.mesh, abstract)
        whole = meshes.replicated(self.mesh)
        return {
            "parameters": parameters,
            "optimizer": meshes.optimizer_shardings(
                self.mesh, self.optimizer.transformation, state["optimizer"], parameters
            ),
            "step": whole,
            "recent": whole,
        }

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Numbers of parameters: "parameters" and, of them, "multiplied" with every token."""
        with self.on_mesh():
            abstract = nnx.to_pure_dict(jax.eval_shape(self.parameters, jax.random.key(0)))
        leaves = jax.tree.leaves(abstract)
        matrices = sum(leaf.size for leaf in leaves if leaf.ndim > 1)
        table = 0 if self.model.tie_embeddings else abstract["embedding"]["embedding"].size
        return {"parameters": sum(leaf.size for leaf in leaves), "multiplied": matrices - table}


def initialize(trainer: Trainer, key: jax.Array) -> State:
    """First state, each part made where it lies."""
    with trainer.on_mesh():
        return jax.jit(trainer.state, out_shardings=trainer.shardings)(key)


def token_losses(model: LanguageModel, tokens: jax.Array, chunk: int) -> jax.Array:
    """`-log p` of every token given those before it, in nats.

    Logits are made for `chunk` tokens of every sequence at a time, again in the backward pass where
    that is not all of them.

    Args:
        model: gives hidden features and logits.
        tokens: int32 `(B, T + 1)`.
        chunk: at least 1.

    Returns:
        float32 `(B, T)`.
    """
    return _losses(model, tokens[:, :-1], tokens[:, 1:], chunk)


def _losses(model: LanguageModel, inputs: jax.Array, wanted: jax.Array, chunk: int) -> jax.Array:
    """The same of inputs and the tokens after them."""
    hidden = model.hidden(inputs)
    batch, time = wanted.shape
    size = min(chunk, time)
    if size == time:
        return cross_entropy(model.logits(hidden), wanted)
    count = -(-time // size)
    pad = count * size - time
    hidden = jnp.pad(hidden, [(0, 0), (0, pad), (0, 0)])
    wanted = jnp.pad(wanted, [(0, 0), (0, pad)])

    @jax.checkpoint
    def losses(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        return cross_entropy(model.logits(piece[0]), piece[1])

    pieces = tuple(
        jnp.moveaxis(x.reshape(batch, count, size, *x.shape[2:]), 1, 0) for x in (hidden, wanted)
    )
    found = jax.lax.map(losses, pieces)
    return jnp.moveaxis(found, 0, 1).reshape(batch, -1)[:, :time]


@partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_step(trainer: Trainer, state: State, batch: jax.Array) -> tuple[State, dict[str, Any]]:
    """One step on the mean of the losses of all tokens of a batch.

    Args:
        trainer: the model and its optimiser.
        state: before the step.
        batch: int32 `(A, B / A, T + 1)`; gradients of A parts are added up, one after the other.

    Returns:
        The state after it; "loss", in nats a token, and "gradient_norm", before clipping.
    """

    def add(total: Any, tokens: jax.Array) -> tuple[Any, None]:
        found = jax.value_and_grad(trainer.loss)(state["parameters"], tokens)
        return jax.tree.map(jnp.add, total, found), None

    zeros = jax.tree.map(jnp.zeros_like, state["parameters"])
    total, _ = jax.lax.scan(add, (jnp.zeros((), jnp.float32), zeros), batch)
    mean, gradients = jax.tree.map(lambda x: x / batch.shape[0], total)
    with jax.numpy_dtype_promotion("standard"):  # optax takes a float to the power of the count
        updates, optimizer = trainer.optimizer.transformation.update(
            gradients, state["optimizer"], state["parameters"]
        )
    next_state = {
        "parameters": optax.apply_updates(state["parameters"], updates),
        "optimizer": optimizer,
        "step": state["step"] + 1,
        "recent": state["recent"].at[state["step"] % trainer.recent].set(mean),
    }
    next_state = jax.lax.with_sharding_constraint(next_state, trainer.shardings)
    return next_state, {"loss": mean, "gradient_norm": optax.tree.norm(gradients)}


def recent_loss(state: State) -> float:
    """Mean of the losses that the state has kept, in nats a token."""
    kept = min(int(state["step"]), len(state["recent"]))
    return float(np.asarray(state["recent"], np.float64)[:kept].mean())

"""Training of one network: augmentation on the device, SGD with steps in the learning rate."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.butterfly.resnet.model import ResNet

type State = dict[str, Any]
""""parameters", "statistics" of the batch norms, "momentum"."""

# Mean and deviation of the training images, by channel, in [0, 1].
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
PAD = 4  # pixels that a crop may move by


@dataclass(frozen=True)
class Trainer:
    """One network and how it is trained.

    Attributes:
        extra: layer before the classifier, a key of `model.EXTRA`.
        width: channels of the stem.
        blocks: blocks in a stage.
        dtype: of the computation.
        batch: images of a step.
        learning_rate: at the start.
        decay: factor of the learning rate every `decay_epochs`.
        decay_epochs: epochs between two decays.
        weight_decay: added to the gradient of everything but butterfly factors.
        momentum: of SGD.
    """

    extra: str
    width: int
    blocks: int
    dtype: str
    batch: int
    learning_rate: float
    decay: float
    decay_epochs: int
    weight_decay: float
    momentum: float

    def model(self, key: jax.Array) -> ResNet:
        """A network with random parameters."""
        dtype = jnp.dtype(self.dtype)
        return ResNet(
            self.extra, width=self.width, blocks=self.blocks, dtype=dtype, rngs=nnx.Rngs(key)
        )

    @cached_property
    def graph(self) -> Any:
        """The network without its parameters and statistics."""
        abstract = nnx.eval_shape(lambda: self.model(jax.random.key(0)))
        return nnx.split(abstract, nnx.Param, nnx.BatchStat)[0]

    @property
    def optimizer(self) -> Any:
        """Weight decay, then momentum; the learning rate comes with the step."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            optax.trace(self.momentum),
        )

    def rate(self, epoch: jax.Array) -> jax.Array:
        """Learning rate of an epoch."""
        times = (epoch // self.decay_epochs).astype(jnp.float32)
        return jnp.float32(self.learning_rate) * jnp.float32(self.decay) ** times


def decayed(parameters: Any) -> Any:
    """Whether weight decay acts on each parameter: on all but the factors of a butterfly."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "twiddle" not in jax.tree_util.keystr(path), parameters
    )


def initialize(trainer: Trainer, key: jax.Array) -> State:
    """First state."""
    _, parameters, statistics = nnx.split(trainer.model(key), nnx.Param, nnx.BatchStat)
    pure = nnx.to_pure_dict(parameters)
    return {
        "parameters": pure,
        "statistics": nnx.to_pure_dict(statistics),
        "momentum": trainer.optimizer.init(pure),
    }


def normalize(images: jax.Array) -> jax.Array:
    """uint8 to float32 of mean 0 and deviation 1 in every channel of the training images."""
    mean, deviation = (
        jnp.asarray(values, jnp.float32).reshape((1,) * (images.ndim - 1) + (3,))
        for values in (MEAN, DEVIATION)
    )
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Random crops of the images with a rim of zeros, half of them mirrored: `(B, H, W, 3)`."""
    count, height, width, _ = images.shape
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, [(0, 0), (PAD, PAD), (PAD, PAD), (0, 0)])
    corners = jax.random.randint(crop_key, (count, 2), 0, 2 * PAD + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        zero = jnp.zeros((), corner.dtype)
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], zero), (height, width, 3))

    crops = jax.vmap(crop)(padded, corners)
    flip = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
    return jnp.where(flip, crops[:, :, ::-1], crops)


@partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_epoch(
    trainer: Trainer,
    state: State,
    key: jax.Array,
    epoch: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[State, jax.Array]:
    """One pass over the images in random order, augmented; what is beyond whole batches rests.

    Args:
        trainer: the network.
        state: before the epoch.
        key: with the epoch it gives order and augmentation.
        epoch: counted from 0.
        images: `(count, 32, 32, 3)` uint8.
        labels: `(count,)` int32.

    Returns:
        The state after it, and the mean loss.
    """
    optimizer, rate = trainer.optimizer, trainer.rate(epoch)
    steps = len(labels) // trainer.batch
    order_key, augment_key = jax.random.split(jax.random.fold_in(key, epoch))
    order = jax.random.permutation(order_key, len(labels))[: steps * trainer.batch]

    def loss(parameters: Any, statistics: Any, batch: jax.Array, wanted: jax.Array) -> Any:
        model = nnx.merge(trainer.graph, parameters, statistics)
        model.train()
        values = optax.softmax_cross_entropy_with_integer_labels(model(batch), wanted)
        return values.mean(), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def step(state: State, chosen: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        index, step_key = chosen
        batch = normalize(augment(step_key, images[index]))
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(
            state["parameters"], state["statistics"], batch, labels[index]
        )
        updates, momentum = optimizer.update(gradients, state["momentum"], state["parameters"])
        updates = jax.tree.map(lambda leaf: -rate * leaf, updates)
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "statistics": statistics,
            "momentum": momentum,
        }, value

    keys = jax.random.split(augment_key, steps)
    state, losses = jax.lax.scan(step, state, (order.reshape(steps, trainer.batch), keys))
    return state, losses.mean()


@partial(jax.jit, static_argnames=("trainer", "chunk"))
def accuracy(
    trainer: Trainer, state: State, images: jax.Array, labels: jax.Array, chunk: int = 1000
) -> jax.Array:
    """Share of images whose largest logit is the label's."""
    count = len(labels)
    pieces = -(-count // chunk)
    pad = pieces * chunk - count
    images = jnp.pad(images, [(0, pad), (0, 0), (0, 0), (0, 0)])
    wanted = jnp.pad(labels, (0, pad), constant_values=-1).reshape(pieces, chunk)
    model = nnx.merge(trainer.graph, state["parameters"], state["statistics"])
    model.eval()
    graph, arrays = nnx.split(model)

    def hits(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = nnx.merge(graph, arrays)(normalize(piece[0]))
        right = jnp.argmax(logits, axis=-1).astype(piece[1].dtype) == piece[1]
        return jnp.sum(right, dtype=jnp.int32)

    found = jax.lax.map(hits, (images.reshape(pieces, chunk, *images.shape[1:]), wanted))
    return found.sum().astype(jnp.float32) / jnp.float32(count)

"""Eight shapes of four blocks, two of which are mirror images: what a product cannot tell apart.

Three layers of messages between touching blocks, then one row of scalars a shape. Features are
signals `0e + 1o + 2e` on every block, and with odd couplings also `0o + 1e + 2o`. The networks are
invariant under rotations, so that one example of each shape is the whole training set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.experiment import Results, Scalars
from structlayers.equivariant import (
    ClebschGordanTensorProduct,
    Gate,
    GauntTensorProduct,
    IrrepsLinear,
    VectorSignalTensorProduct,
    spherical_harmonics,
)

SHAPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "left screw": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)),
    "right screw": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, -1)),
    "line": ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)),
    "square": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)),
    "L": ((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0)),
    "T": ((0, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 0)),
    "S": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)),
    "corner": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
"""Blocks of every shape; the first two are mirror images of each other."""

PRODUCTS = ("clebsch_gordan", "gaunt_and_vector_signal", "gaunt")

_LMAX = 2


@dataclass(frozen=True)
class Graphs:
    """All shapes as one graph.

    Attributes:
        harmonics: of the edges, `(E, 9)`.
        senders: `(E,)`.
        receivers: `(E,)`.
        shape: of every block, `(32,)`.
    """

    harmonics: jax.Array
    senders: np.ndarray
    receivers: np.ndarray
    shape: np.ndarray


def graphs(rotations: np.ndarray) -> Graphs:
    """The shapes, each turned by its own matrix of `(8, 3, 3)`; edges join touching blocks."""
    blocks = np.asarray(list(SHAPES.values()), np.float64)
    places = np.einsum("sij,sbj->sbi", rotations, blocks).reshape(-1, 3)
    shape = np.repeat(np.arange(len(SHAPES)), blocks.shape[1])
    offsets = places[None] - places[:, None]
    near = (np.abs(np.linalg.norm(offsets, axis=-1) - 1) < 1e-3) & (shape[:, None] == shape)
    senders, receivers = np.nonzero(near)
    harmonics = spherical_harmonics(_LMAX, offsets[senders, receivers]) * np.sqrt(4 * np.pi)
    return Graphs(jnp.asarray(harmonics, jnp.float32), senders, receivers, shape)


def random_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rotation matrices `(count, 3, 3)`, uniform."""
    quaternions = rng.standard_normal((count, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.asarray(rows).transpose(2, 0, 1)


class Message(nnx.Module):
    """Products of senders' features with the harmonics of edges, summed at receivers."""

    def __init__(self, product: str, channels: int, *, rngs: nnx.Rngs):
        self.product, self.channels = product, channels
        options: dict[str, Any] = {"rngs": rngs}
        natural = e3nn.s2_irreps(_LMAX)
        self.irreps = channels * natural
        if product == "gaunt":
            self.even = GauntTensorProduct(channels, _LMAX, _LMAX, **options)
            self.irreps_out = self.irreps
            return
        pseudo = e3nn.s2_irreps(_LMAX, p_val=-1)
        self.irreps = self.irreps_out = (channels * (natural + pseudo)).regroup()
        if product == "clebsch_gordan":
            self.all = ClebschGordanTensorProduct(self.irreps, natural, self.irreps, **options)
            return
        self.even, self.even_pseudo = (
            GauntTensorProduct(channels, _LMAX, _LMAX, **options) for _ in range(2)
        )
        self.odd, self.odd_pseudo = (
            VectorSignalTensorProduct(channels, _LMAX, _LMAX, **options) for _ in range(2)
        )

    def __call__(self, x: e3nn.IrrepsArray, graph: Graphs) -> e3nn.IrrepsArray:
        """`(N, irreps)` to `(N, irreps_out)`."""
        edges = e3nn.IrrepsArray(e3nn.s2_irreps(_LMAX), graph.harmonics)
        sent = x[graph.senders]
        if self.product == "clebsch_gordan":
            messages = self.all(sent, edges)
        elif self.product == "gaunt":
            messages = self.even(sent, edges)
        else:
            true = sent.filter(keep=self.channels * e3nn.s2_irreps(_LMAX))
            pseudo = sent.filter(keep=self.channels * e3nn.s2_irreps(_LMAX, p_val=-1))
            kept = self.even(true, edges) + self.odd_pseudo(pseudo, edges)
            turned = self.even_pseudo(pseudo, edges) + self.odd(true, edges)
            messages = e3nn.concatenate([kept, turned]).regroup()
        sums = jax.ops.segment_sum(messages.array, graph.receivers, x.shape[0])
        return e3nn.IrrepsArray(messages.irreps, sums / np.sqrt(2).astype(np.float32))


class Tetris(nnx.Module):
    """Messages and gates, and from the mean over blocks eight `0e` and, where there is one, a `0o`.

    The odd scalar votes for one mirror image and against the other; scores of the rest are even.
    """

    def __init__(self, product: str, channels: int, layers: int, *, rngs: nnx.Rngs):
        messages = [Message(product, channels, rngs=rngs) for _ in range(layers)]
        irreps = messages[0].irreps
        self.embed = IrrepsLinear("0e", f"{channels}x0e", rngs=rngs)
        self.gate = Gate(irreps)
        self.messages = nnx.List(messages)
        self.mix = nnx.List(
            IrrepsLinear(irreps, self.gate.irreps_in, use_bias=True, rngs=rngs)
            for _ in range(layers)
        )
        odd = any(str(ir) == "0o" for _, ir in irreps)
        out = f"{len(SHAPES)}x0e" + (" + 1x0o" if odd else "")
        self.read = IrrepsLinear(irreps, out, use_bias=True, rngs=rngs)

    def __call__(self, graph: Graphs) -> jax.Array:
        """Scores of every shape in the graph, `(8, 8)`."""
        blocks = len(graph.shape)
        start = self.embed(e3nn.IrrepsArray("0e", jnp.ones((blocks, 1))))
        x = start.extend_with_zeros(self.messages[0].irreps)
        for message, mix in zip(self.messages, self.mix, strict=True):
            x = self.gate(mix(message(x, graph)))
        pooled = jax.ops.segment_sum(self.read(x).array, graph.shape, len(SHAPES)) / 4
        scores, odd = pooled[:, : len(SHAPES)], pooled[:, len(SHAPES) :]
        return scores.at[:, :2].add(odd * jnp.asarray([[1.0, -1.0]])) if odd.size else scores


@dataclass(frozen=True)
class TetrisPhase:
    """Training with one product.

    Attributes:
        product: one of `PRODUCTS`.
        channels: multiplicity of every irrep.
        layers: of messages.
        num_steps: of Adam.
        learning_rate: of Adam.
        copies: turned copies of every shape in the test.
        seed: of weights and of the test's rotations.
    """

    product: str
    channels: int
    layers: int
    num_steps: int
    learning_rate: float
    copies: int
    seed: int

    @property
    def name(self) -> str:
        """Product and seed."""
        return f"{self.product}_seed{self.seed}"

    @property
    def chunk(self) -> int:
        """All steps in one compiled loop of at most 100."""
        return min(self.num_steps, 100)

    def _model(self) -> tuple[nnx.GraphDef, nnx.State]:
        model = Tetris(self.product, self.channels, self.layers, rngs=nnx.Rngs(self.seed))
        return nnx.split(model)

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def init(self) -> dict[str, Any]:
        """Random weights."""
        _, state = self._model()
        pure = nnx.to_pure_dict(state)
        return {"weights": pure, "optimizer": self._optimizer().init(pure)}

    def _scores(self, weights: Any, graph: Graphs) -> jax.Array:
        graphdef, state = self._model()
        nnx.replace_by_pure_dict(state, weights)
        return nnx.merge(graphdef, state)(graph)

    def advance(self, state: dict[str, Any], step: int, num: int) -> tuple[dict[str, Any], Scalars]:
        """Further steps on the shapes as they stand."""
        del step
        graph = graphs(np.broadcast_to(np.eye(3), (len(SHAPES), 3, 3)))
        labels, optimizer = jnp.arange(len(SHAPES)), self._optimizer()

        def loss(weights: Any) -> jax.Array:
            scores = self._scores(weights, graph)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        def body(state: dict[str, Any], _: None) -> tuple[dict[str, Any], jax.Array]:
            value, gradient = jax.value_and_grad(loss)(state["weights"])
            updates, memory = optimizer.update(gradient, state["optimizer"])
            weights = optax.apply_updates(state["weights"], updates)
            return {"weights": weights, "optimizer": memory}, value

        state, losses = jax.jit(lambda state: jax.lax.scan(body, state, length=num))(state)
        return state, {"loss": losses[-1]}

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Right answers of the test by shape; how far scores of the mirror images are apart.

        The latter relative to the largest score.
        """
        rng = np.random.default_rng(self.seed + 1)
        found = []
        for _ in range(self.copies):
            graph = graphs(random_rotations(rng, len(SHAPES)))
            found.append(np.asarray(self._scores(state["weights"], graph)))
        table = np.stack(found)
        right = np.mean(np.argmax(table, axis=-1) == np.arange(len(SHAPES)), axis=0)
        return {
            "right": dict(zip(SHAPES, right.tolist(), strict=True)),
            "mirror_difference": float(
                np.abs(table[:, 0] - table[:, 1]).max() / np.abs(table).max()
            ),
        }


@dataclass(frozen=True)
class TetrisTable:
    """All products.

    Attributes:
        products: of `PRODUCTS`.
        seeds: one training each.
        channels: see `TetrisPhase`.
        layers: see `TetrisPhase`.
        num_steps: see `TetrisPhase`.
        learning_rate: see `TetrisPhase`.
        copies: see `TetrisPhase`.
    """

    products: tuple[str, ...]
    seeds: tuple[int, ...]
    channels: int
    layers: int
    num_steps: int
    learning_rate: float
    copies: int

    def phases(self) -> Sequence[TetrisPhase]:
        """One phase a product and seed."""
        options = (self.channels, self.layers, self.num_steps, self.learning_rate, self.copies)
        return [
            TetrisPhase(product, *options, seed) for product in self.products for seed in self.seeds
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """By product the mean over seeds of `accuracy` and `accuracy_others`, all but the pair.

        Of `mirror_difference` the largest, and the smallest as `mirror_difference_least`.
        """
        metrics = {}
        for product in self.products:
            found = [results[f"{product}_seed{seed}"] for seed in self.seeds]
            right = np.mean([list(result["right"].values()) for result in found], axis=0)
            apart = [result["mirror_difference"] for result in found]
            metrics |= {
                f"{product}/accuracy": float(np.mean(right)),
                f"{product}/accuracy_others": float(np.mean(right[2:])),
                f"{product}/mirror_difference": max(apart),
                f"{product}/mirror_difference_least": min(apart),
            }
        return metrics

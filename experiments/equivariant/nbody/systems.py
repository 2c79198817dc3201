"""What a network sees of the particles: vectors, scalars, and harmonics of their directions."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from experiments.equivariant.nbody.simulate import HORIZON, WARM_UP, Trajectories, simulate
from structlayers.equivariant import spherical_harmonics


class Systems(NamedTuple):
    """S systems of N particles, all pairs of which are edges, float32.

    Harmonics of every degree have length 1, so that products with them do not grow.

    Attributes:
        vectors: position from the mean of all and velocity, `(S, N, 2, 3)`.
        speed: `(S, N, 1)`.
        edges: harmonics from the second to the first, `(S, N, N, (L + 1)^2)`; 0 on the diagonal.
        nodes: the mean over a particle's edges, and the harmonics of its velocity; the scalar is 1.
        pairs: distance and product of the charges, `(S, N, N, 2)`; 0 on the diagonal.
        displacement: what is to be predicted, `(S, N, 3)`.
    """

    vectors: jax.Array | np.ndarray
    speed: jax.Array | np.ndarray
    edges: jax.Array | np.ndarray
    nodes: jax.Array | np.ndarray
    pairs: jax.Array | np.ndarray
    displacement: jax.Array | np.ndarray

    @property
    def size(self) -> int:
        """S."""
        return len(self.speed)


def take(systems: Systems, index: jax.Array | np.ndarray) -> Systems:
    """Some of the systems."""
    return jax.tree.map(lambda leaf: leaf[index], systems)


def _harmonics(lmax: int, vectors: np.ndarray) -> np.ndarray:
    """Harmonics of length 1 in every degree, `(..., 3)` to `(..., (L + 1)^2)`."""
    degrees = np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)
    found = spherical_harmonics(lmax, vectors.reshape(-1, 3))
    found *= np.sqrt(4 * np.pi / (2 * degrees + 1))
    return found.reshape(*vectors.shape[:-1], -1)


def systems_of(found: Trajectories, lmax: int) -> Systems:
    """What a network sees.

    Args:
        found: trajectories.
        lmax: largest degree of the harmonics.
    """
    particles = found.charges.shape[1]
    apart = ~np.eye(particles, dtype=bool)
    away = found.positions[:, :, None] - found.positions[:, None]
    edges = np.zeros((*away.shape[:-1], (lmax + 1) ** 2))
    edges[:, apart] = _harmonics(lmax, away[:, apart])
    nodes = edges.sum(axis=2) / (particles - 1) + _harmonics(lmax, found.velocities)
    nodes[..., 0] = 1
    charges = found.charges[:, :, None] * found.charges[:, None]
    pairs = np.stack([np.linalg.norm(away, axis=-1), charges * apart], axis=-1)
    centred = found.positions - found.positions.mean(axis=1, keepdims=True)
    fields = Systems(
        vectors=np.stack([centred, found.velocities], axis=2),
        speed=np.linalg.norm(found.velocities, axis=-1, keepdims=True),
        edges=edges,
        nodes=nodes,
        pairs=pairs,
        displacement=found.later - found.positions,
    )
    return Systems(*(field.astype(np.float32) for field in fields))


@dataclass(frozen=True)
class Sets:
    """Systems to train on, to validate on and to test on, on the device."""

    train: Systems
    validation: Systems
    test: Systems


def make_sets(
    sizes: tuple[int, int, int],
    lmax: int,
    seed: int,
    *,
    warm_up: int = WARM_UP,
    horizon: int = HORIZON,
) -> Sets:
    """All sets, each from its own random stream, so that none changes with another's size.

    Args:
        sizes: of the sets for training, validation and test.
        lmax: largest degree of the harmonics.
        seed: of the streams.
        warm_up: see `simulate`.
        horizon: see `simulate`.
    """
    streams = np.random.default_rng(seed).spawn(3)
    made = [
        simulate(stream, size, warm_up=warm_up, horizon=horizon)
        for stream, size in zip(streams, sizes, strict=True)
    ]
    return Sets(*(jax.device_put(systems_of(trajectories, lmax)) for trajectories in made))

r"""Charged particles in space: trajectories in float64, made anew in every run.

.. math:: \dot v_i = \sum_{j \neq i} q_i q_j \frac{x_i - x_j}{|x_i - x_j|^3}

Units have unit masses, charges and Coulomb constant. Components of a force are cut at `CLIP`, which
matters within a tenth of a unit.
"""

from typing import NamedTuple

import numpy as np

PARTICLES = 5
TIME_STEP = 1e-3
CLIP = 100.0
SPEED = 0.5
"""At the start, of every particle."""
WARM_UP = 3100
"""Steps before the positions that a network sees."""
HORIZON = 1000
"""Steps from there to the positions that it predicts."""

# trajectories that are advanced together: their arrays stay in a core's cache
_TOGETHER = 500


class Trajectories(NamedTuple):
    """S systems of N particles at two times.

    Attributes:
        positions: at the first time, float64 `(S, N, 3)`.
        velocities: at the first time, `(S, N, 3)`.
        charges: 1 or -1, `(S, N)`.
        later: positions at the second time, `(S, N, 3)`.
    """

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray
    later: np.ndarray


def advance(
    positions: np.ndarray,
    velocities: np.ndarray,
    charges: np.ndarray,
    steps: int,
    *,
    time_step: float = TIME_STEP,
    clip: float = CLIP,
) -> tuple[np.ndarray, np.ndarray]:
    """Kicks by the forces and then drifts, `steps` times (semi-implicit Euler).

    Args:
        positions: float64 `(S, N, 3)`.
        velocities: `(S, N, 3)`.
        charges: `(S, N)`.
        steps: of each trajectory.
        time_step: of a step.
        clip: largest absolute component of a particle's force.

    Returns:
        Positions and velocities after the steps.
    """
    first, second = np.triu_indices(positions.shape[1], 1)
    ends = np.eye(positions.shape[1])
    signs = ends[:, first] - ends[:, second]  # particle, pair
    found = np.empty_like(positions), np.empty_like(velocities)
    for start in range(0, len(positions), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        x, v = (np.moveaxis(array[part], 0, -1).copy() for array in (positions, velocities))
        q = charges[part].T
        products = (q[first] * q[second])[:, None]  # pair, 1, system
        for _ in range(steps):
            away = x[first] - x[second]
            square = np.einsum("pis,pis->ps", away, away)[:, None]
            away *= products / (square * np.sqrt(square))
            force = (signs @ away.reshape(len(first), -1)).reshape(x.shape)
            v += time_step * np.clip(force, -clip, clip)
            x += time_step * v
        found[0][part], found[1][part] = np.moveaxis(x, -1, 0), np.moveaxis(v, -1, 0)
    return found


def energy(positions: np.ndarray, velocities: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Kinetic and potential energy of every system, `(S,)`."""
    first, second = np.triu_indices(positions.shape[1], 1)
    distance = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    potential = (charges[:, first] * charges[:, second] / distance).sum(axis=1)
    return 0.5 * (velocities**2).sum(axis=(1, 2)) + potential


def start(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal positions, velocities of length `SPEED` in any direction, charges 1 or -1."""
    shape = (count, PARTICLES, 3)
    positions, directions = rng.standard_normal(shape), rng.standard_normal(shape)
    velocities = SPEED * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    return positions, velocities, rng.choice([-1.0, 1.0], shape[:2])


def simulate(
    rng: np.random.Generator, count: int, *, warm_up: int = WARM_UP, horizon: int = HORIZON
) -> Trajectories:
    """Random systems after `warm_up` steps, and `horizon` steps later.

    Example:
        >>> found = simulate(np.random.default_rng(0), 2, warm_up=10, horizon=20)
        >>> found.positions.shape, found.charges.shape
        ((2, 5, 3), (2, 5))

    References:
        Kipf, Fetaya, Wang, Welling, Zemel, "Neural Relational Inference for Interacting Systems",
        2018, arXiv:1802.04687, appendix B; in space and with these times: Satorras, Hoogeboom,
        Welling, "E(n) Equivariant Graph Neural Networks", 2021, arXiv:2102.09844, section 5.1.
    """
    positions, velocities, charges = start(rng, count)
    positions, velocities = advance(positions, velocities, charges, warm_up)
    later, _ = advance(positions, velocities, charges, horizon)
    return Trajectories(positions, velocities, charges, later)

"""Small structures and small potentials."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from structlayers.models.interatomic_potential import (
    InteratomicPotential,
    InteratomicPotentialConfig,
    Structure,
    make_graph,
)


def scattered(count: int, size: float, seed: int, apart: float = 0.9) -> np.ndarray:
    """Random positions in a box, none closer than `apart` to another or to an image of one."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < count:
        place = rng.uniform(0, size, 3)
        gaps = [np.abs(place - other) for other in found]
        if all(np.linalg.norm(np.minimum(gap, size - gap)) > apart for gap in gaps):
            found.append(place)
    return np.array(found)


def cluster(seed: int = 0, count: int = 6) -> Structure:
    numbers = np.random.default_rng(seed).choice([1, 6, 8], count)
    return Structure(numbers, scattered(count, 3.0, seed))


def crystal(seed: int = 0, count: int = 4) -> Structure:
    """Atoms in a skewed cell shorter than the cutoff: atoms neighbour their own images."""
    cell = 3.1 * np.eye(3) + np.array([[0.0, 0.3, 0.1], [-0.2, 0.0, 0.4], [0.1, 0.2, 0.0]])
    numbers = np.random.default_rng(seed).choice([1, 6, 8], count)
    positions = scattered(count, 1.0, seed, apart=0.4) @ cell
    return Structure(numbers, positions, cell=cell, periodic=(True, True, True))


def small_config(**options: Any) -> InteratomicPotentialConfig:
    sizes: dict[str, Any] = {
        "channels": 2,
        "lmax": 2,
        "hidden_lmax": 1,
        "cutoff": 4.0,
        "num_bessel": 3,
        "radial_features": (8,),
        "readout_features": 4,
        "mean_neighbours": 5.0,
        "scale": 1.5,
        "shift": -0.7,
        "atomic_energies": (-13.6, -1026.9, -2037.8),
    }
    return InteratomicPotentialConfig((1, 6, 8), **sizes | options)


@functools.cache
def small_potential(**options: Any) -> InteratomicPotential:
    """Shared by tests, none of which changes it."""
    return InteratomicPotential(small_config(**options), rngs=nnx.Rngs(0))


def tiny_potential(**options: Any) -> InteratomicPotential:
    """One interaction, low degrees: for what does not depend on them."""
    return small_potential(
        num_interactions=1,
        lmax=1,
        correlation=2,
        contraction="gaunt",
        radial_features=(4,),
        **options,
    )


@functools.cache
def predictor(
    potential: InteratomicPotential, *, stress: bool = False, **places: int
) -> Callable[..., Any]:
    """Predicts structures by one compiled function; shared by the tests that ask for the same."""
    graphdef, state = nnx.split(potential)
    config = potential.config

    @jax.jit
    def predict(graph: Any) -> Any:
        return nnx.merge(graphdef, state).predict(graph, stress=stress)

    def call(*structures: Structure) -> Any:
        dtype = np.dtype(config.dtype)
        return predict(make_graph(structures, config.species, config.cutoff, dtype=dtype, **places))

    return call

"""Signals and transformations that the tests of the family share."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np


def signal(rng: np.random.Generator, *shape: int, lmax: int, dtype: str = "float64") -> np.ndarray:
    """Standard normal coefficients `(*shape, (lmax + 1)^2)`."""
    return rng.standard_normal((*shape, (lmax + 1) ** 2)).astype(dtype)


@functools.cache
def rotation(lmax: int, *, inverts: bool = False) -> np.ndarray:
    """A rotation of coefficients, float64 `(K, K)`, times the inversion of an argument."""
    angles = (0.3, 1.1, -2.0)
    with jax.enable_x64(True):
        matrix = e3nn.s2_irreps(lmax).D_from_angles(*map(jnp.float64, angles), k=int(inverts))
        return np.asarray(matrix, np.float64)

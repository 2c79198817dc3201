"""Signals and transformations that the tests of the family share."""

import functools

import numpy as np

from structlayers.equivariant import SphericalGrid, spherical_harmonics


def signal(rng: np.random.Generator, *shape: int, lmax: int, dtype: str = "float64") -> np.ndarray:
    """Standard normal coefficients `(*shape, (lmax + 1)^2)`."""
    return rng.standard_normal((*shape, (lmax + 1) ** 2)).astype(dtype)


@functools.cache
def turn(*, inverts: bool = False) -> np.ndarray:
    """An orthogonal matrix of no special directions; its determinant is 1, or -1 if it inverts."""
    matrix, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    return matrix * np.linalg.det(matrix) * (-1 if inverts else 1)


@functools.cache
def rotation(lmax: int, *, inverts: bool = False) -> np.ndarray:
    """The matrix on coefficients of `f(p) -> f(R^-1 p)`, by projection on a grid, `(K, K)`."""
    grid = SphericalGrid.gauss_legendre(2 * lmax)
    turned = spherical_harmonics(lmax, grid.points @ turn(inverts=inverts))
    return spherical_harmonics(lmax, grid.points).T @ (grid.weights[:, None] * turned)

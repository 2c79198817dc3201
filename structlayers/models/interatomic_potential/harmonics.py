"""Harmonics of edges as polynomials: one product with a table, and so are their derivatives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant import spherical_harmonics
from structlayers.models.interatomic_potential.parts import degrees_of
from structlayers.models.interatomic_potential.slopes import by_slopes


@functools.cache
def harmonic_polynomials(lmax: int) -> np.ndarray:
    r"""Coefficients of `x^a y^b z^c` in harmonics of unit mean square.

    Those of degree l are the homogeneous polynomial of that degree, which is unique.

    Args:
        lmax: largest degree L.

    Returns:
        float64 `(L + 1, L + 1, L + 1, (L + 1)^2)`: a, b, c, harmonic.

    Example:
        >>> harmonic_polynomials(1)[0, 0, 1].round(4).tolist()
        [0.0, 0.0, 0.0, 1.7321]
    """
    count = lmax + 1
    table = np.zeros((count, count, count, count**2))
    points = np.random.default_rng(0).standard_normal((8 * count**2, 3))
    values = np.sqrt(4 * np.pi) * spherical_harmonics(lmax, points)
    for degree in range(count):
        exponents = np.array(
            [e for e in itertools.product(range(count), repeat=3) if sum(e) == degree]
        )
        monomials = np.prod(points[:, None] ** exponents, axis=2)
        block = slice(degree**2, (degree + 1) ** 2)
        solid = values[:, block] * np.linalg.norm(points, axis=1, keepdims=True) ** degree
        found = np.linalg.lstsq(monomials, solid)[0]
        table[(*exponents.T, block)] = np.where(np.abs(found) > 1e-9, found, 0)
    return table


@functools.cache
def _tables(lmax: int, scale: float) -> np.ndarray:
    """Coefficients of the harmonics and of their derivatives by x, y, z, `(4, monomials, ...)`."""
    table = harmonic_polynomials(lmax) * scale ** (degrees_of(lmax, np.float64) @ range(lmax + 1))
    found = [table]
    for axis in range(3):
        slope = np.moveaxis(np.zeros_like(table), axis, 0)
        exponents = np.arange(1, lmax + 1).reshape(-1, 1, 1, 1)
        slope[:-1] = exponents * np.moveaxis(table, axis, 0)[1:]
        found.append(np.moveaxis(slope, 0, axis))
    return np.stack(found).reshape(4, -1, table.shape[-1])


def edge_harmonics(directions: jax.Array, lmax: int, scale: float = 1.0) -> jax.Array:
    """Real spherical harmonics of mean square `scale^(2 l)`.

    Args:
        directions: unit vectors `(E, 3)`.
        lmax: largest degree L.
        scale: by which those of degree l are multiplied l times.

    Returns:
        `(E, (L + 1)^2)`; those of `e3nn_jax.spherical_harmonics`, normalization "component", times
        `scale^l`.

    Example:
        >>> print(edge_harmonics(jnp.array([[0.6, 0.0, 0.8]]), 1).round(4))
        [[1.     1.0392 0.     1.3856]]
    """
    tables = _tables(lmax, scale)

    def rows(slopes: bool, x: jax.Array, weights: None) -> list[jax.Array]:
        del weights
        table = tables[: 1 + 3 * slopes]
        powers = jnp.stack([x**k for k in range(lmax + 1)], axis=2)  # E 3 L+1
        a, b, c = (powers[:, k] for k in range(3))
        monomials = a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]
        flat = monomials.reshape(len(x), (lmax + 1) ** 3)
        found = jnp.matmul(
            flat, jnp.asarray(np.concatenate(table, axis=1), x.dtype), precision="highest"
        )
        return [jnp.stack(jnp.split(found, len(table), axis=1))]

    return by_slopes(rows, directions, None)[0]

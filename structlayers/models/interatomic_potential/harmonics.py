"""Harmonics of edges as polynomials: one product with a table, and so are their derivatives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant import spherical_harmonics


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


def edge_harmonics(directions: jax.Array, lmax: int) -> jax.Array:
    """Real spherical harmonics of unit mean square.

    Args:
        directions: unit vectors `(E, 3)`.
        lmax: largest degree L.

    Returns:
        `(E, (L + 1)^2)`; those of `e3nn_jax.spherical_harmonics`, normalization "component".

    Example:
        >>> print(edge_harmonics(jnp.array([[0.6, 0.0, 0.8]]), 1).round(4))
        [[1.     1.0392 0.     1.3856]]
    """
    table = harmonic_polynomials(lmax).reshape(-1, (lmax + 1) ** 2)
    powers = jnp.stack([directions**k for k in range(lmax + 1)], axis=2)  # E 3 L+1
    x, y, z = (powers[:, k] for k in range(3))
    monomials = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
    flat = monomials.reshape(len(directions), len(table))
    return jnp.matmul(flat, jnp.asarray(table, flat.dtype), precision="highest")

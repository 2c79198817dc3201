"""What the tests of the family's products share: rotations of irreps, random signals."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.harmonics import spherical_harmonics


def rotation(rng: np.random.Generator) -> np.ndarray:
    """A random rotation matrix, float64."""
    matrix, triangle = np.linalg.qr(rng.standard_normal((3, 3)))
    matrix = matrix * np.sign(np.diagonal(triangle))
    return matrix * np.sign(np.linalg.det(matrix))


@functools.cache
def _points() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 3))


def wigner(degree: int, matrix: np.ndarray) -> np.ndarray:
    """`D` with `Y(R p) = D Y(p)`, fitted to harmonics at many points, float64."""
    these = slice(degree**2, (degree + 1) ** 2)
    points = _points()
    before = spherical_harmonics(degree, points)[:, these]
    after = spherical_harmonics(degree, points @ matrix.T)[:, these]
    return np.linalg.lstsq(before, after, rcond=None)[0].T


def rotate(x: e3nn.IrrepsArray, matrix: np.ndarray, *, invert: bool = False) -> e3nn.IrrepsArray:
    """An irreps array turned in float64, and inverted, in its own dtype."""
    array = np.asarray(x.array, np.float64)
    parts = []
    for (mul, ir), at in zip(x.irreps, x.irreps.slices(), strict=True):
        part = array[..., at].reshape(*array.shape[:-1], mul, ir.dim)
        part = part @ wigner(ir.l, matrix).T * (ir.p if invert else 1)
        parts.append(part.reshape(*array.shape[:-1], mul * ir.dim))
    turned = np.concatenate(parts, axis=-1)
    return e3nn.IrrepsArray(x.irreps, jnp.asarray(turned, x.array.dtype))


def irreps_array(rng: np.random.Generator, irreps: str, *lead: int) -> e3nn.IrrepsArray:
    """Standard normal float32 entries."""
    dim = e3nn.Irreps(irreps).dim
    values = rng.standard_normal((*lead, dim)).astype(np.float32)
    return e3nn.IrrepsArray(irreps, jnp.asarray(values))


def signal(rng: np.random.Generator, lmax: int, *lead: int) -> jax.Array:
    """Standard normal float32 coefficients."""
    return jnp.asarray(rng.standard_normal((*lead, (lmax + 1) ** 2)), jnp.float32)

"""Real spherical harmonics and their Legendre and Fourier factors, in NumPy float64.

`Y_lm(p) = P_l|m|(cos b) F_m(a)` with the polar axis y: `cos b = y`, `a = atan2(x, z)`. Orthonormal
on the unit sphere; degree 1 is `sqrt(3 / 4 pi) (x, y, z)`; (l, m) stands at `l^2 + l + m`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from structlayers.equivariant.wigner import require_degree


def degree_slices(lmax: int) -> Iterator[slice]:
    """The coefficients of every degree on the last axis, of 0 to `lmax`.

    Example:
        >>> [s.stop for s in degree_slices(2)]
        [1, 4, 9]
    """
    for degree in range(lmax + 1):
        yield slice(degree**2, (degree + 1) ** 2)


def degrees_of(lmax: int) -> np.ndarray:
    """The degree l of every coefficient, int64 `((lmax + 1)^2,)`.

    Example:
        >>> degrees_of(1).tolist()
        [0, 1, 1, 1]
    """
    return np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)


def orders_of(lmax: int) -> np.ndarray:
    """The order m of every coefficient, int64 `((lmax + 1)^2,)`.

    Example:
        >>> orders_of(1).tolist()
        [0, -1, 0, 1]
    """
    return np.concatenate([np.arange(-degree, degree + 1) for degree in range(lmax + 1)])


def legendre_factors(lmax: int, cos_beta: ArrayLike) -> np.ndarray:
    r"""Normalised associated Legendre functions, without the phase (-1)^m.

    .. math:: \int_{-1}^{1} P_{l m}(t) P_{l' m}(t) dt = \delta_{l l'}

    Args:
        lmax: the largest degree L.
        cos_beta: `(N,)`, in [-1, 1].

    Returns:
        float64 `(N, L + 1, L + 1)`: point, l, m; zero for m > l.

    Raises:
        ValueError: a negative degree, or values outside [-1, 1].

    Example:
        >>> legendre_factors(1, [0.0])[0].round(6).tolist()
        [[0.707107, 0.0], [0.0, 0.866025]]

    References:
        Press et al., "Numerical Recipes", third edition, 2007, section 6.7.
    """
    lmax = require_degree("lmax", lmax)
    t = np.asarray(cos_beta, np.float64)
    if t.ndim != 1 or not np.all(np.abs(t) <= 1):
        raise ValueError(f"cos_beta must be (N,) in [-1, 1], got {np.array2string(t, threshold=8)}")
    sine = np.sqrt((1 - t) * (1 + t))
    table = np.zeros((len(t), lmax + 1, lmax + 1))
    for m in range(lmax + 1):
        if m == 0:
            table[:, 0, 0] = np.sqrt(0.5)
        else:
            table[:, m, m] = np.sqrt((2 * m + 1) / (2 * m)) * sine * table[:, m - 1, m - 1]
        before = 0.0
        for degree in range(m + 1, lmax + 1):
            factor = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            table[:, degree, m] = factor * (
                t * table[:, degree - 1, m] - before * table[:, max(degree - 2, 0), m]
            )
            before = 1 / factor
    return table


def fourier_factors(lmax: int, alpha: ArrayLike) -> np.ndarray:
    r"""Orthonormal sines and cosines: sin(|m| a) / sqrt(pi), 1 / sqrt(2 pi), cos(m a) / sqrt(pi).

    Args:
        lmax: the largest order L.
        alpha: `(N,)`, radians.

    Returns:
        float64 `(N, 2 L + 1)`, order m = -L..L.

    Raises:
        ValueError: a negative degree.

    Example:
        >>> (fourier_factors(1, [0.0])[0] * np.pi**0.5).round(6).tolist()
        [0.0, 0.707107, 1.0]
    """
    lmax = require_degree("lmax", lmax)
    angles = np.asarray(alpha, np.float64)[:, None] * np.arange(1, lmax + 1)
    middle = np.full((len(angles), 1), np.sqrt(0.5))
    return np.concatenate([np.sin(angles)[:, ::-1], middle, np.cos(angles)], axis=1) / np.sqrt(
        np.pi
    )


def spherical_harmonics(lmax: int, points: ArrayLike) -> np.ndarray:
    r"""Real orthonormal spherical harmonics of directions.

    .. math:: \int Y_i Y_j = \delta_{i j}

    Args:
        lmax: the largest degree L.
        points: `(N, 3)`, of any length but zero: only the direction counts.

    Returns:
        float64 `(N, (L + 1)^2)`; those of `e3nn_jax.spherical_harmonics`, normalization "integral".

    Raises:
        ValueError: another shape, or a point that is zero or not finite.

    Example:
        >>> (spherical_harmonics(1, [[0.0, 0.0, 2.0]])[0] * (4 * np.pi) ** 0.5).round(6).tolist()
        [1.0, 0.0, 0.0, 1.732051]

    References:
        Geiger, Smidt, "e3nn: Euclidean Neural Networks", 2022, arXiv:2207.09453.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), got {points.shape}")
    radius = np.linalg.norm(points, axis=1, keepdims=True)
    if not np.all(np.isfinite(radius) & (radius > 0)):
        raise ValueError("points must be finite and not zero: a zero vector has no direction")
    x, y, z = (points / radius).T
    legendre = legendre_factors(lmax, np.clip(y, -1, 1))
    fourier = fourier_factors(lmax, np.arctan2(x, z))
    degrees, orders = degrees_of(lmax), orders_of(lmax)
    return legendre[:, degrees, np.abs(orders)] * fourier[:, lmax + orders]

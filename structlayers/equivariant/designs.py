"""Spherical designs: points of equal weights, found by Gauss-Newton steps in float64."""

import functools
import math

import numpy as np

from structlayers.equivariant.harmonics import (
    degrees_of,
    fourier_factors,
    legendre_factors,
    orders_of,
)

_STEPS = 100
_ATTEMPTS = 4


def design_size(degree: int, *, antipodal: bool = False) -> int:
    """The number of points with which `spherical_design` starts its search.

    Designs of an odd degree are antipodal, so only harmonics of even degree are conditions: about
    `T^2 / 2` points. The others have about `(T + 1)^2 / 2`, two unknowns a point for as many
    conditions.

    Args:
        degree: T.
        antipodal: whether every point must have its opposite; an even degree then takes T + 1.

    Returns:
        As many unknowns as conditions, up to rotations of the whole.

    Example:
        >>> design_size(7), design_size(12), design_size(12, antipodal=True)
        (30, 86, 94)
    """
    if degree % 2 == 0 and not antipodal:
        return (degree + 1) ** 2 // 2 + 2 if degree else 1
    odd = degree + 1 - degree % 2
    return 2 * math.ceil((odd * odd + odd + 4) / 4)


def _spiral(count: int, height: float, turn: float) -> np.ndarray:
    """Polar angle and azimuth `(2, count)` of points spread over a part of the sphere."""
    index = np.arange(count) + 0.5
    beta = np.arccos(1 - height * index / count)
    return np.stack([beta, (math.pi * (1 + math.sqrt(5)) * index + turn * beta) % (2 * math.pi)])


def _sums(degrees: np.ndarray, orders: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums over points of some harmonics, and the derivatives by both angles."""
    lmax = int(degrees[-1])
    beta, alpha = angles
    # reflected polar angles belong to the other half of the meridian
    legendre = legendre_factors(lmax + 1, np.cos(beta))
    legendre[:, :, 1::2] *= np.sign(np.sin(beta))[:, None, None]
    fourier = fourier_factors(lmax, alpha)
    m = np.abs(orders)
    value = legendre[:, degrees, m]
    lower = np.where(m > 0, legendre[:, degrees, np.abs(m - 1)], -legendre[:, degrees, 1])
    slope = 0.5 * (
        np.sqrt((degrees + m) * (degrees - m + 1)) * lower
        - np.sqrt((degrees - m) * (degrees + m + 1)) * legendre[:, degrees, m + 1]
    )
    wave = fourier[:, lmax + orders]
    by_beta = slope * wave
    by_alpha = -orders * value * fourier[:, lmax - orders]
    return np.sum(value * wave, axis=0), np.concatenate([by_beta, by_alpha]).T


def _solve(degree: int, count: int, antipodal: bool, turn: float) -> np.ndarray | None:
    """Points `(count, 3)`, or None where the steps do not arrive at a design."""
    degrees, orders = degrees_of(degree), orders_of(degree)
    wanted = (degrees > 0) & (degrees % 2 == 0 if antipodal else True)
    degrees, orders = degrees[wanted], orders[wanted]
    free = count // 2 if antipodal else count
    angles = _spiral(free, 1.0 if antipodal else 2.0, turn)
    damping = 1.0
    if len(degrees):
        sums, slopes = _sums(degrees, orders, angles)
        for _ in range(_STEPS):
            if np.max(np.abs(sums)) < 3e-14 * free:
                break
            gram = slopes @ slopes.T
            gram[np.diag_indices_from(gram)] += damping * np.trace(gram) / len(gram)
            step = -slopes.T @ np.linalg.solve(gram, sums)
            trial = angles + step.reshape(2, free)
            trial_sums, trial_slopes = _sums(degrees, orders, trial)
            if np.sum(trial_sums**2) < np.sum(sums**2):
                angles, sums, slopes = trial, trial_sums, trial_slopes
                damping = max(damping / 8, 1e-12)
            else:
                damping *= 4
        else:
            return None
    beta, alpha = angles
    sine = np.sin(beta)
    points = np.stack([sine * np.sin(alpha), np.cos(beta), sine * np.cos(alpha)], axis=1)
    return np.concatenate([points, -points]) if antipodal else points


@functools.cache
def spherical_design(degree: int, *, antipodal: bool = False) -> np.ndarray:
    r"""Points over which harmonics up to a degree average to zero, to rounding.

    .. math:: \sum_n Y_{l m}(p_n) = 0 \quad (1 \le l \le T)

    The search is deterministic: damped Gauss-Newton steps from a spiral, with more points where it
    does not arrive. A second at T = 24, and cached.

    Args:
        degree: T.
        antipodal: whether every point must have its opposite: those of odd degree always have.

    Returns:
        float64 `(N, 3)`, N = `design_size` or a few more; read-only. With opposites,
        the second half is the negative of the first.

    Raises:
        RuntimeError: the search did not arrive.

    Example:
        >>> bool(abs(spherical_design(4).sum(axis=0)).max() < 1e-12)
        True

    References:
        Delsarte, Goethals, Seidel, "Spherical codes and designs", 1977, definition 5.1.
        Womersley, "Efficient spherical designs with good geometric properties", 2018,
        arXiv:1709.01624, section 3.
    """
    size = design_size(degree, antipodal=antipodal)
    symmetric = antipodal or degree % 2 == 1
    for count in range(size, size + 9, 2 if symmetric else 1):
        for attempt in range(_ATTEMPTS):
            points = _solve(
                degree + (antipodal and degree % 2 == 0), count, symmetric, 0.37 * attempt
            )
            if points is not None:
                points.setflags(write=False)
                return points
    raise RuntimeError(f"no spherical design of degree {degree} found with up to {size + 8} points")

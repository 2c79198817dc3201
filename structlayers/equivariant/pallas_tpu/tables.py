"""Harmonics of half a grid as the left operands of the matrix unit. Imports no Pallas.

Inputs are evaluated at the points of half a grid and at their antipodes. Half the sum and half the
difference of the two values of a product are its even and its odd part, each of which is projected
on its own degrees: half the points to sum over.
"""

import functools

import numpy as np

from structlayers.equivariant.half_grid import half_grid
from structlayers.equivariant.harmonics import degrees_of, spherical_harmonics
from structlayers.equivariant.pallas_tpu.arithmetic import stack_table

# Rows of a register of bfloat16.
_TILE = 16


def padded(size: int) -> int:
    """Whole registers of rows.

    Example:
        >>> padded(25)
        32
    """
    return -(-size // _TILE) * _TILE


@functools.cache
def padded_points(degree: int) -> int:
    """Points of the half grid exact to a degree, filled up."""
    return padded(len(half_grid(degree)[1]))


def _filled(table: np.ndarray) -> np.ndarray:
    rows, columns = table.shape
    return np.pad(table, ((0, padded(rows) - rows), (0, padded(columns) - columns)))


@functools.cache
def evaluating(lmax: int, degree: int, parts: int) -> np.ndarray:
    """Evaluates coefficients on the grid exact to a degree, and behind that at the antipodes.

    Returns:
        bfloat16 `(2 P, pairs K)`, P = `padded_points(degree)`, K = `padded((lmax + 1)^2)`.
    """
    values = spherical_harmonics(lmax, half_grid(degree)[0])
    signs = 1 - 2 * (degrees_of(lmax) % 2)
    both = np.concatenate([_filled(values), _filled(values * signs)])
    return stack_table(both, parts)


@functools.cache
def projecting(lmax: int, degree: int, parts: int) -> tuple[np.ndarray, ...]:
    """Project sums and differences of values at points and antipodes on even and odd degrees.

    Returns:
        bfloat16 `(padded(coefficients), pairs P)` of each parity; of the even one alone for degree
        0.
    """
    points, weights = half_grid(degree)
    values = (spherical_harmonics(lmax, points) * weights[:, None] / 2).T
    parities = degrees_of(lmax) % 2
    return tuple(
        stack_table(_filled(values[parities == parity]), parts)
        for parity in ((0, 1) if lmax else (0,))
    )

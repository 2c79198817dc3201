"""Half of a grid that is symmetric about the origin."""

import functools

import numpy as np

from structlayers.equivariant.grids import get_grid


@functools.cache
def half_grid(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of which each stands for itself and its antipode, and their weights.

    One point of each opposite pair of the smallest grid that has them; weights are doubled.

    Args:
        degree: T of the polynomials that it integrates exactly.

    Returns:
        float64 points `(n, 3)` and weights `(n,)`, which sum up to 4 pi.

    Raises:
        ValueError: a negative degree.

    Example:
        >>> [len(half_grid(3 * lmax)[1]) for lmax in (2, 3, 4, 6, 8)]
        [13, 19, 43, 73, 133]
    """
    grid = get_grid(None, degree, antipodal=True)
    assert grid.opposites is not None
    chosen = grid.opposites[0]
    return grid.points[chosen], 2 * grid.weights[chosen]

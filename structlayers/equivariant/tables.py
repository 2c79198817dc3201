"""Constant tables of the transforms to and from grids, NumPy float64, made once and read-only."""

import functools

import numpy as np

from structlayers.equivariant.grids import SphericalGrid
from structlayers.equivariant.harmonics import (
    degrees_of,
    fourier_factors,
    legendre_factors,
    orders_of,
    spherical_harmonics,
)
from structlayers.equivariant.paths import PathTable, signal_table, tensor_product_paths
from structlayers.equivariant.wigner import gaunt, gaunt_factor


def _read_only(table: np.ndarray) -> np.ndarray:
    table.setflags(write=False)
    return table


@functools.cache
def to_grid(grid: SphericalGrid, lmax: int) -> np.ndarray:
    """Values of the harmonics at the points, `((L + 1)^2, N)`.

    Args:
        grid: of N points.
        lmax: L.

    Example:
        >>> to_grid(SphericalGrid.gauss_legendre(2), 1).shape
        (4, 6)
    """
    return _read_only(spherical_harmonics(lmax, grid.points).T.copy())


@functools.cache
def from_grid(grid: SphericalGrid, lmax: int) -> np.ndarray:
    """Weights times values of the harmonics, `(N, (L + 1)^2)`: the projection of a grid signal.

    Args:
        grid: of N points.
        lmax: L.

    Example:
        >>> grid = SphericalGrid.gauss_legendre(2)
        >>> bool(np.allclose(to_grid(grid, 1) @ from_grid(grid, 1), np.eye(4)))
        True
    """
    return _read_only(grid.weights[:, None] * to_grid(grid, lmax).T)


@functools.cache
def by_parity(lmax: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of even and of odd degree, as int32 indices.

    Example:
        >>> by_parity(2)[0].tolist(), by_parity(2)[1].tolist()
        ([0, 4, 5, 6, 7, 8], [1, 2, 3])
    """
    odd = degrees_of(lmax) % 2
    even, rest = (np.flatnonzero(odd == value).astype(np.int32) for value in (0, 1))
    return _read_only(even), _read_only(rest)


@functools.cache
def to_half_grid(grid: SphericalGrid, lmax: int) -> tuple[np.ndarray, np.ndarray]:
    """`to_grid` at one point of each opposite pair, for even and for odd degrees.

    A harmonic of even degree has the same value at opposite points, one of odd degree the opposite.

    Args:
        grid: whose points come in N / 2 opposite pairs.
        lmax: L.

    Returns:
        `(K_even, N / 2)` and `(K_odd, N / 2)`.

    Example:
        >>> [t.shape for t in to_half_grid(SphericalGrid.design(5), 1)]
        [(1, 9), (3, 9)]
    """
    points = _first_of_pairs(grid)
    even, odd = (to_grid(grid, lmax)[rows][:, points] for rows in by_parity(lmax))
    return _read_only(even), _read_only(odd)


@functools.cache
def from_half_grid(grid: SphericalGrid, lmax: int) -> tuple[np.ndarray, np.ndarray]:
    """`from_grid` for half of the points, `(N / 2, K_even)` and `(N / 2, K_odd)`, doubled.

    Args:
        grid: whose points come in N / 2 opposite pairs.
        lmax: L.

    Example:
        >>> [t.shape for t in from_half_grid(SphericalGrid.design(5), 1)]
        [(9, 1), (9, 3)]
    """
    points = _first_of_pairs(grid)
    even, odd = (2 * from_grid(grid, lmax)[points][:, columns] for columns in by_parity(lmax))
    return _read_only(even), _read_only(odd)


def _first_of_pairs(grid: SphericalGrid) -> np.ndarray:
    if grid.opposites is None:
        raise ValueError("the grid's points do not come in opposite pairs")
    return grid.opposites[0]


@functools.cache
def legendre_tables(grid: SphericalGrid, lmax: int) -> tuple[np.ndarray, ...]:
    """Legendre factors for every |m|, each `(L + 1 - |m|, n_beta)`: degrees from |m| on.

    Args:
        grid: a product grid.
        lmax: L.

    Example:
        >>> [t.shape for t in legendre_tables(SphericalGrid.gauss_legendre(4), 1)]
        [(2, 3), (1, 3)]
    """
    cos_beta, _ = _factors_of(grid)
    factors = legendre_factors(lmax, cos_beta)
    return tuple(_read_only(factors[:, m:, m].T.copy()) for m in range(lmax + 1))


@functools.cache
def fourier_table(grid: SphericalGrid, lmax: int) -> np.ndarray:
    """Fourier factors `(2 L + 1, n_alpha)` in the order 0, -1, 1, -2, 2, ... of m.

    Args:
        grid: a product grid.
        lmax: L.

    Example:
        >>> fourier_table(SphericalGrid.gauss_legendre(4), 1).shape
        (3, 5)
    """
    _, alpha = _factors_of(grid)
    return _read_only(fourier_factors(lmax, alpha).T[[lmax + m for m in _orders(lmax)]])


@functools.cache
def polar_weights(grid: SphericalGrid) -> np.ndarray:
    """The weights of the polar nodes, `(n_beta,)`: what one azimuth of a row weighs.

    Args:
        grid: a product grid.

    Example:
        >>> round(float(polar_weights(SphericalGrid.gauss_legendre(4)).sum() * 5 / np.pi), 12)
        4.0
    """
    cos_beta, _ = _factors_of(grid)
    return _read_only(grid.weights.reshape(len(cos_beta), -1)[:, 0].copy())


def _factors_of(grid: SphericalGrid) -> tuple[np.ndarray, np.ndarray]:
    if grid.cos_beta is None or grid.alpha is None:
        raise ValueError("the grid is no product of polar angles and azimuths")
    return grid.cos_beta, grid.alpha


def _orders(lmax: int) -> list[int]:
    return [0, *(sign * m for m in range(1, lmax + 1) for sign in (-1, 1))]


@functools.cache
def by_order(lmax: int) -> np.ndarray:
    """Where coefficients go when sorted by order m = 0, -1, 1, -2, ..., then degree, int32.

    Example:
        >>> by_order(2).tolist()
        [0, 2, 6, 1, 5, 3, 7, 4, 8]
    """
    degrees, orders = degrees_of(lmax), orders_of(lmax)
    ranks = np.array([_orders(lmax).index(m) for m in orders])
    return _read_only(np.lexsort((degrees, ranks)).astype(np.int32))


@functools.cache
def dense_gaunt(l1max: int, l2max: int, l3max: int) -> np.ndarray:
    """All Gaunt coefficients, `((L1 + 1)^2, (L2 + 1)^2, (L3 + 1)^2)`.

    Args:
        l1max: L1.
        l2max: L2.
        l3max: L3.

    Example:
        >>> dense_gaunt(1, 1, 2).shape
        (4, 4, 9)
    """
    table = np.zeros([(lmax + 1) ** 2 for lmax in (l1max, l2max, l3max)])
    degrees = (range(lmax + 1) for lmax in (l1max, l2max, l3max))
    for path in tensor_product_paths(*degrees, couplings="even"):
        block = tuple(slice(degree**2, (degree + 1) ** 2) for degree in path)
        table[block] = gaunt(*path)
    # rounding of exact zeros; the others are above 1e-5 up to L = 8
    table[np.abs(table) < 1e-13] = 0
    return _read_only(table)


@functools.cache
def gaunt_table(l1max: int, l2max: int, l3max: int) -> PathTable:
    """The same coefficients path by path.

    Args:
        l1max: L1.
        l2max: L2.
        l3max: L3.

    Example:
        >>> gaunt_table(1, 1, 1).paths
        ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))
    """
    degrees = (range(lmax + 1) for lmax in (l1max, l2max, l3max))
    paths = tensor_product_paths(*degrees, couplings="even")
    return signal_table((l1max, l2max, l3max), {path: gaunt_factor(*path) for path in paths})


@functools.cache
def count_nonzero(l1max: int, l2max: int, l3max: int) -> int:
    """How many Gaunt coefficients are not zero.

    Example:
        >>> count_nonzero(1, 1, 1), count_nonzero(2, 2, 2)
        (10, 83)
    """
    return len(gaunt_table(l1max, l2max, l3max).terms().value)

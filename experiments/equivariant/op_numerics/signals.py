"""Random signals, exact products of them, and how they turn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np

from structlayers.equivariant import SphericalGrid, gaunt_tensor_product, spherical_harmonics
from structlayers.equivariant.grids import KINDS
from structlayers.equivariant.tables import dense_gaunt

FORMS = (
    "gauss_legendre",
    "equiangular",
    "design",
    "lebedev",
    "separable",
    "antipodal",
    "fourier",
)
"""Kinds of grid with one table each way, and other implementations on points of their choice."""

type Measured = Mapping[str, float]
type Measurement = Callable[[], Measured]
type Product = Callable[..., jax.Array]


def draw(*degrees: int, rows: int = 64) -> list[np.ndarray]:
    """Standard normal coefficients of signals, signed, float64 `(rows, (L + 1)^2)` each."""
    rng = np.random.default_rng([7, *degrees])
    return [rng.standard_normal((rows, (lmax + 1) ** 2)) for lmax in degrees]


def by_form(form: str) -> Product:
    """The product in one of the `FORMS`."""
    if form in KINDS:
        return partial(gaunt_tensor_product, grid=form, implementation="xla")
    return partial(gaunt_tensor_product, implementation=form)


def exact_results(x: np.ndarray, y: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
    """The product and both gradients against a cotangent, by coefficients from 3j symbols.

    Args:
        x: float64 `(rows, (L1 + 1)^2)`.
        y: `(rows, (L2 + 1)^2)`.
        c: the cotangent, `(rows, (L3 + 1)^2)`.
    """
    table = dense_gaunt(*(round(array.shape[1] ** 0.5) - 1 for array in (x, y, c)))
    return [
        np.einsum(terms, *pair, table, optimize=True)
        for terms, pair in (
            ("ni,nj,ijk->nk", (x, y)),
            ("nj,nk,ijk->ni", (y, c)),
            ("ni,nk,ijk->nj", (x, c)),
        )
    ]


def rotation(lmax: int, *, inverts: bool) -> np.ndarray:
    """A rotation of coefficients, times the inversion of directions if `inverts`."""
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    turn = turn * np.linalg.det(turn) * (-1 if inverts else 1)
    grid = SphericalGrid.gauss_legendre(2 * lmax)
    turned = spherical_harmonics(lmax, grid.points @ turn)
    return spherical_harmonics(lmax, grid.points).T @ (grid.weights[:, None] * turned)


def largest(arrays: Sequence[np.ndarray]) -> float:
    """The largest magnitude in any of the arrays."""
    return max(float(np.max(np.abs(array))) for array in arrays)

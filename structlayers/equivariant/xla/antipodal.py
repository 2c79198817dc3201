"""Signals on half of a grid: even and odd degrees apart, at one of each two opposite points."""

import functools
from typing import override

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike, SphericalGrid, get_grid
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla import transforms
from structlayers.equivariant.xla.products import apply_table
from structlayers.equivariant.xla.transforms import Transform, Values, lmax_of


class Antipodal(Transform):
    """Even and odd degrees apart, at one point of every opposite pair.

    With `f(p) = f_e(p) + f_o(p)` and `f(-p) = f_e(p) - f_o(p)` products are even
    `f_e g_e + f_o g_o` and odd `f_e g_o + f_o g_e`, and each part projects on its own degrees: half
    the points, about half the coefficients in each table.
    """

    @classmethod
    @override
    def on(cls, grid: GridLike, degree: int, precision: TablePrecision) -> Transform:
        """As in `Transform`, with opposite points."""
        if not isinstance(grid, SphericalGrid):
            grid = get_grid(grid, degree, antipodal=True)
        return cls(grid, precision)

    @override
    def to_grid(self, x: jax.Array) -> Values:
        """The even part and the odd part, each `(..., N / 2)`, filled up."""
        lmax = lmax_of(x)
        even, odd = (
            apply_table(
                _take(x, _filled_up(rows, self.multiple, x)), self.filled(table), self.precision
            )
            for rows, table in zip(
                tables.by_parity(lmax), tables.to_half_grid(self.grid, lmax), strict=True
            )
        )
        return even, odd

    @override
    def multiply(self, f: Values, g: Values) -> Values:
        """See `Transform`."""
        (f_even, f_odd), (g_even, g_odd) = f, g
        return f_even * g_even + f_odd * g_odd, f_even * g_odd + f_odd * g_even

    @override
    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """See `Transform`."""
        even, odd = (
            apply_table(part, self.filled(table), self.precision)
            for part, table in zip(values, tables.from_half_grid(self.grid, lmax), strict=True)
        )
        order = np.zeros((lmax + 1) ** 2, np.int32)
        for start, rows in zip((0, even.shape[-1]), tables.by_parity(lmax), strict=True):
            order[rows] = start + np.arange(len(rows))
        return _take(jnp.concatenate([even, odd], axis=-1), order)


def _filled_up(rows: np.ndarray, multiple: int, x: jax.Array) -> np.ndarray:
    """Indices, and behind them such that x does not have, each another."""
    missing = -len(rows) % multiple
    return np.append(rows, x.shape[-1] + np.arange(missing)).astype(np.int32)


def _take(x: jax.Array, index: np.ndarray) -> jax.Array:
    """Entries of the last axis, no one twice; zero where x has none."""
    return x.at[..., index].get(mode="fill", fill_value=0, unique_indices=True)


gaunt_tensor_product = functools.partial(transforms.gaunt_tensor_product, transform=Antipodal)
many_body_product = functools.partial(transforms.many_body_product, transform=Antipodal)

"""Signals on grids: three ways to go from coefficients to values and back.

A transform turns coefficients into values, multiplies values point by point, and projects values
on degrees up to a largest one. All that the products need is written once for the three.
"""

import abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.dispatch import current_platform
from structlayers.equivariant import tables
from structlayers.equivariant.grids import SphericalGrid, get_grid
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.products import apply_table

type Values = tuple[jax.Array, ...]


def lmax_of(x: jax.Array | np.ndarray) -> int:
    """The largest degree of coefficients `(..., (L + 1)^2)`.

    Example:
        >>> lmax_of(jnp.ones((5, 9)))
        2
    """
    return round(x.shape[-1] ** 0.5) - 1


@dataclasses.dataclass(frozen=True)
class Transform(abc.ABC):
    """To and from one grid, in one precision.

    Attributes:
        grid: the points.
        precision: of the tables.
    """

    grid: SphericalGrid
    precision: TablePrecision

    @abc.abstractmethod
    def to_grid(self, x: jax.Array) -> Values:
        """Values of coefficients `(..., (L + 1)^2)`."""

    @abc.abstractmethod
    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """Coefficients `(..., (lmax + 1)^2)` of values: their projection."""

    def multiply(self, f: Values, g: Values) -> Values:
        """The product, point by point."""
        return tuple(a * b for a, b in zip(f, g, strict=True))


class OneShot(Transform):
    """One table each way, `(L + 1)^2 N` multiplications; any grid.

    On a CPU, whose matrix products add one after the other, points are cut into parts of at most
    128: a third less rounding error at L = 6, for up to a fifth more time.
    """

    def to_grid(self, x: jax.Array) -> Values:
        """Values `(..., N)`, or of parts of the points."""
        table = tables.to_grid(self.grid, lmax_of(x))
        parts = np.array_split(table, self._num_parts, axis=1)
        return tuple(apply_table(x, part, self.precision) for part in parts)

    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """See `Transform`."""
        parts = np.array_split(tables.from_grid(self.grid, lmax), self._num_parts)
        first, *rest = (
            apply_table(value, part, self.precision)
            for value, part in zip(values, parts, strict=True)
        )
        return sum(rest, start=first)

    @property
    def _num_parts(self) -> int:
        return -(-len(self.grid.weights) // 128) if current_platform() == "cpu" else 1


class Antipodal(Transform):
    """Even and odd degrees apart, at one point of every opposite pair.

    With `f(p) = f_e(p) + f_o(p)` and `f(-p) = f_e(p) - f_o(p)` products are even
    `f_e g_e + f_o g_o` and odd `f_e g_o + f_o g_e`, and each part projects on its own degrees: half
    the points, about half the coefficients in each table.
    """

    def to_grid(self, x: jax.Array) -> Values:
        """The even part and the odd part, each `(..., N / 2)`."""
        lmax = lmax_of(x)
        rows, halves = tables.by_parity(lmax), tables.to_half_grid(self.grid, lmax)
        even, odd = (
            apply_table(jnp.take(x, index, axis=-1), table, self.precision)
            for index, table in zip(rows, halves, strict=True)
        )
        return even, odd

    def multiply(self, f: Values, g: Values) -> Values:
        """See `Transform`."""
        (f_even, f_odd), (g_even, g_odd) = f, g
        return f_even * g_even + f_odd * g_odd, f_even * g_odd + f_odd * g_even

    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """See `Transform`."""
        halves = tables.from_half_grid(self.grid, lmax)
        parts = [
            apply_table(part, table, self.precision)
            for part, table in zip(values, halves, strict=True)
        ]
        order = np.argsort(np.concatenate(tables.by_parity(lmax))).astype(np.int32)
        return jnp.take(jnp.concatenate(parts, axis=-1), order, axis=-1)


class Separable(Transform):
    """A Legendre sum over degrees for each order, then a Fourier sum over orders.

    `(L + 1)^2 n_beta + (2 L + 1) n_beta n_alpha` multiplications: O(L^3) for O(L^2) points.
    """

    def to_grid(self, x: jax.Array) -> Values:
        """Values `(..., n_beta, n_alpha)`."""
        lmax = lmax_of(x)
        x = jnp.take(x, tables.by_order(lmax), axis=-1)
        waves, start = [], 0
        for m, table in enumerate(tables.legendre_tables(self.grid, lmax)):
            signs = 2 if m else 1
            end = start + signs * len(table)
            block = x[..., start:end].reshape(*x.shape[:-1], signs, len(table))
            waves.append(apply_table(block, table, self.precision))
            start = end
        orders = jnp.swapaxes(jnp.concatenate(waves, axis=-2), -1, -2)
        return (apply_table(orders, tables.fourier_table(self.grid, lmax), self.precision),)

    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """See `Transform`."""
        fourier = tables.fourier_table(self.grid, lmax).T
        orders = jnp.swapaxes(apply_table(values[0], fourier, self.precision), -1, -2)
        weights = tables.polar_weights(self.grid)[:, None]
        parts, start = [], 0
        for m, table in enumerate(tables.legendre_tables(self.grid, lmax)):
            end = start + (2 if m else 1)
            part = apply_table(orders[..., start:end, :], weights * table.T, self.precision)
            parts.append(part.reshape(*part.shape[:-2], part.shape[-2] * part.shape[-1]))
            start = end
        order = np.argsort(tables.by_order(lmax)).astype(np.int32)
        return jnp.take(jnp.concatenate(parts, axis=-1), order, axis=-1)


def _grid(grid: str | SphericalGrid, degree: int, transform: type[Transform]) -> SphericalGrid:
    if isinstance(grid, SphericalGrid):
        return grid
    return get_grid(grid, degree, antipodal=transform is Antipodal)


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: str | SphericalGrid,
    precision: TablePrecision,
    transform: type[Transform] = OneShot,
) -> jax.Array:
    """Values of both, their product, and its projection; nothing but x and y is kept.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or float64.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast.
        lmax: L3, the largest degree of the result.
        grid: a kind of grid, or a grid exact to L1 + L2 + L3.
        precision: of the tables.
        transform: the kind of transform.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    points = _grid(grid, lmax_of(x) + lmax_of(y) + lmax, transform)
    through = transform(points, precision)

    @jax.checkpoint
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return through.from_grid(through.multiply(through.to_grid(x), through.to_grid(y)), lmax)

    return product(x, y)


def many_body_product(
    x: jax.Array,
    *,
    order: int,
    lmax: int,
    grid: str | SphericalGrid,
    precision: TablePrecision,
    transform: type[Transform] = OneShot,
) -> jax.Array:
    """Powers 2 to nu of one signal on one grid, each projected; nothing but x is kept.

    Args:
        x: `(..., (L + 1)^2)`, float32 or float64.
        order: nu, at least 2.
        lmax: the largest degree of the results.
        grid: a kind of grid, or a grid exact to nu L + lmax.
        precision: of the tables.
        transform: the kind of transform.

    Returns:
        `(..., nu - 1, (lmax + 1)^2)`.
    """
    through = transform(_grid(grid, order * lmax_of(x) + lmax, transform), precision)

    @jax.checkpoint
    def powers(x: jax.Array) -> jax.Array:
        values = power = through.to_grid(x)
        found = []
        for _ in range(order - 1):
            power = through.multiply(power, values)
            found.append(power)
        # all powers by one product with the table
        axis = x.ndim - 1  # behind them stand those of the grid
        stacked = tuple(jnp.stack(part, axis) for part in zip(*found, strict=True))
        return through.from_grid(stacked, lmax)

    return powers(x)


gaunt_tensor_product_antipodal = functools.partial(gaunt_tensor_product, transform=Antipodal)
gaunt_tensor_product_separable = functools.partial(gaunt_tensor_product, transform=Separable)
many_body_product_antipodal = functools.partial(many_body_product, transform=Antipodal)
many_body_product_separable = functools.partial(many_body_product, transform=Separable)

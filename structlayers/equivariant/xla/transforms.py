"""Signals on grids: ways to go from coefficients to values and back.

A transform turns coefficients into values, multiplies values point by point, and projects values
on degrees up to a largest one. All that the products need is written once for all of them.
"""

import abc
import dataclasses
import functools
from typing import override

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.dispatch import current_platform
from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike, SphericalGrid, get_grid
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.products import apply_table

type Values = tuple[jax.Array, ...]

# Degree T of the grid from which sizes are filled up on GPUs; gpu.md has the figures.
_ALIGNED_FROM = 18


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

    On a GPU coefficients, points and results may be filled up with zeros to rows of whole 16 bytes,
    without which XLA multiplies slowly; two signals of one shape are then one operand.

    Attributes:
        grid: the points.
        precision: of the tables.
    """

    grid: SphericalGrid
    precision: TablePrecision

    @classmethod
    def on(cls, grid: GridLike, degree: int, precision: TablePrecision) -> "Transform":
        """The transform on a grid, or on the smallest of a kind, or of all, that is exact."""
        found = grid if isinstance(grid, SphericalGrid) else get_grid(grid, degree)
        return cls(found, precision)

    @abc.abstractmethod
    def to_grid(self, x: jax.Array) -> Values:
        """Values of coefficients `(..., (L + 1)^2)`."""

    def both_to_grid(self, x: jax.Array, y: jax.Array) -> tuple[Values, Values]:
        """Values of two signals."""
        if self.multiple == 1 or x.shape != y.shape:
            return self.to_grid(x), self.to_grid(y)
        values = self.to_grid(jnp.stack([x, y]))
        return tuple(value[0] for value in values), tuple(value[1] for value in values)

    @abc.abstractmethod
    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """Coefficients `(..., (lmax + 1)^2)` of values: their projection."""

    def multiply(self, f: Values, g: Values) -> Values:
        """The product, point by point."""
        return tuple(a * b for a, b in zip(f, g, strict=True))

    @property
    def multiple(self) -> int:
        """Of which sizes are to be multiples: numbers in 16 bytes where that pays, else 1."""
        if current_platform() != "gpu" or self.grid.degree < _ALIGNED_FROM:
            return 1
        return 8 if self.precision == "bf16" else 4

    def filled(self, table: np.ndarray) -> np.ndarray:
        """The table with zeros at the ends of both axes."""
        return np.pad(table, [(0, -size % self.multiple) for size in table.shape])


class OneShot(Transform):
    """One table each way, `(L + 1)^2 N` multiplications; any grid.

    On a CPU, whose matrix products add one after the other, points are cut into parts of at most
    128: a third less rounding error at L = 6, for up to a fifth more time.
    """

    def to_grid(self, x: jax.Array) -> Values:
        """Values `(..., N)`, or of parts of the points."""
        table = self.filled(tables.to_grid(self.grid, lmax_of(x)))
        if len(table) > x.shape[-1]:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, len(table) - x.shape[-1])])
        parts = np.array_split(table, self._num_parts, axis=1)
        return tuple(apply_table(x, part, self.precision) for part in parts)

    def from_grid(self, values: Values, lmax: int) -> jax.Array:
        """See `Transform`."""
        table = self.filled(tables.from_grid(self.grid, lmax))
        parts = np.array_split(table, self._num_parts)
        first, *rest = (
            apply_table(value, part, self.precision)
            for value, part in zip(values, parts, strict=True)
        )
        return sum(rest, start=first)[..., : (lmax + 1) ** 2]

    @property
    def _num_parts(self) -> int:
        return -(-len(self.grid.weights) // 128) if current_platform() == "cpu" else 1


class Separable(Transform):
    """A Legendre sum over degrees for each order, then a Fourier sum over orders.

    `(L + 1)^2 n_beta + (2 L + 1) n_beta n_alpha` multiplications: O(L^3) for O(L^2) points.
    """

    multiple = 1  # its tables are many and small

    @classmethod
    @override
    def on(cls, grid: GridLike, degree: int, precision: TablePrecision) -> Transform:
        """As in `Transform`, of polar angles times azimuths where nothing else is asked for."""
        return super().on("gauss_legendre" if grid is None else grid, degree, precision)

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


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
    transform: type[Transform] = OneShot,
) -> jax.Array:
    """Values of both, their product, and its projection; nothing but x and y is kept.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or float64.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast.
        lmax: L3, the largest degree of the result.
        grid: a kind of grid, None for the fewest points, or a grid exact to L1 + L2 + L3.
        precision: of the tables.
        transform: the kind of transform.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    through = transform.on(grid, lmax_of(x) + lmax_of(y) + lmax, precision)

    @jax.checkpoint
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return through.from_grid(through.multiply(*through.both_to_grid(x, y)), lmax)

    return product(x, y)


def many_body_product(
    x: jax.Array,
    *,
    order: int,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
    transform: type[Transform] = OneShot,
) -> jax.Array:
    """Powers 2 to nu of one signal on one grid, each projected; nothing but x is kept.

    Args:
        x: `(..., (L + 1)^2)`, float32 or float64.
        order: nu, at least 2.
        lmax: the largest degree of the results.
        grid: a kind of grid, None for the fewest points, or a grid exact to nu L + lmax.
        precision: of the tables.
        transform: the kind of transform.

    Returns:
        `(..., nu - 1, (lmax + 1)^2)`.
    """
    through = transform.on(grid, order * lmax_of(x) + lmax, precision)

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


gaunt_tensor_product_separable = functools.partial(gaunt_tensor_product, transform=Separable)
many_body_product_separable = functools.partial(many_body_product, transform=Separable)

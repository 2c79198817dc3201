"""Products of vector fields on an exact grid: three numbers a point, one cross product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.grids import get_grid
from structlayers.equivariant.paths import PathTable
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.vector_harmonics import Offsets, vector_spherical_harmonics
from structlayers.equivariant.xla.products import apply_table


@functools.cache
def _tables(degrees: tuple[int, int, int], offsets: Offsets) -> tuple[np.ndarray, ...]:
    """To the grid, `((L + 1)^2, 3 N)` for both factors, and back, `(3 N, (L3 + 1)^2)`."""
    bands = [max(degree + offset, 0) for degree, offset in zip(degrees, offsets, strict=True)]
    grid = get_grid(None, sum(bands))
    first, second, third = (
        vector_spherical_harmonics(degree, grid.points, offset)
        for degree, offset in zip(degrees, offsets, strict=True)
    )
    third = third * grid.weights[:, None]
    first, second, third = (table.reshape(-1, table.shape[-1]) for table in (first, second, third))
    return first.T, second.T, third


def vector_signal_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    table: PathTable,
    offsets: Offsets,
    precision: TablePrecision,
) -> jax.Array:
    """To the grid, cross product, and back."""
    degrees = len(table.degrees1) - 1, len(table.degrees2) - 1, len(table.degrees3) - 1
    first, second, third = _tables(degrees, offsets)
    f, g = (
        jnp.stack(jnp.split(apply_table(signal, matrix, precision), 3, axis=-1), axis=-2)
        for signal, matrix in ((x, first), (y, second))
    )
    field = jnp.cross(f, g, axis=-2)
    return apply_table(field.reshape(*field.shape[:-2], len(third)), third, precision)

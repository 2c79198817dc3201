"""The product by all Gaunt coefficients in one table: no grid, `(L + 1)^6` multiplications."""

import math

import jax
import jax.numpy as jnp

from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.products import apply_table
from structlayers.equivariant.xla.transforms import lmax_of


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
) -> jax.Array:
    """The outer product of both times the table of coefficients; x and y alone are kept.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or float64.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast.
        lmax: L3.
        grid: not used.
        precision: of the table; one row is multiplied in true float32 whatever the word.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    del grid
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    if lead and math.prod(lead) == 1 and not isinstance(precision, jax.lax.Precision):
        # of one row XLA makes one loop in float32, to which rounding only adds a kernel
        precision = jax.lax.Precision.HIGHEST
    table = tables.dense_gaunt(lmax_of(x), lmax_of(y), lmax)
    flat = table.reshape(-1, table.shape[-1])

    @jax.checkpoint
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        outer = x[..., :, None] * y[..., None, :]
        return apply_table(outer.reshape(*outer.shape[:-2], len(flat)), flat, precision)

    return product(x, y)

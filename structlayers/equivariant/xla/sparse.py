"""The product by its non-zero Gaunt coefficients, one multiplication each, in one fused loop."""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.transforms import lmax_of


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
) -> jax.Array:
    """Sums of products of single coefficients; x and y alone are kept.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or float64.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast.
        lmax: L3.
        grid: not used.
        precision: not used: no matrix is multiplied.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    del grid, precision
    table = tables.dense_gaunt(lmax_of(x), lmax_of(y), lmax)
    zero = jnp.zeros(jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1]), x.dtype)
    # taken apart once: the derivative puts each together once
    left, right = ([v[..., i] for i in range(v.shape[-1])] for v in (x, y))
    sums = []
    for end in range(table.shape[-1]):
        total = zero
        for i, j in zip(*np.nonzero(table[..., end]), strict=True):
            total = total + float(table[i, j, end]) * left[i] * right[j]
        sums.append(total)
    return jnp.stack(sums, axis=-1)

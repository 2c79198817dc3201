"""Products by their non-zero coefficients, one multiplication each, in one fused loop."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.transforms import lmax_of


def sum_of_terms(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array | None,
    terms: Iterable[tuple[int, int, int, int, float]],
    size: int,
) -> jax.Array:
    """Sums of products of single coefficients; x, y and the weights alone are kept.

    Args:
        x: `(..., d1)`, float32 or float64.
        y: `(..., d2)` of the same rank and dtype; leading axes broadcast.
        weights: `(..., P)`, the same; None is 1.
        terms: components of x, of y and of the result, weight and coefficient of each.
        size: d3.

    Returns:
        `(..., d3)`.
    """
    factors = [x, y] if weights is None else [x, y, weights]
    lead = jnp.broadcast_shapes(*(factor.shape[:-1] for factor in factors))
    # taken apart and repeated once: the derivative sums each and puts it together once
    left, right, *given = (
        [jnp.broadcast_to(factor[..., i], lead) for i in range(factor.shape[-1])]
        for factor in factors
    )
    sums = [jnp.zeros(lead, x.dtype)] * size
    for i, j, k, path, value in terms:
        term = value * left[i] * right[j]
        sums[k] = sums[k] + (term * given[0][path] if given else term)
    return jnp.stack(sums, axis=-1)


def gaunt_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    lmax: int,
    grid: GridLike,
    precision: TablePrecision,
) -> jax.Array:
    """The product of two functions on the sphere.

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
    terms = [(i, j, k, 0, float(table[i, j, k])) for i, j, k in np.argwhere(table).tolist()]
    return sum_of_terms(x, y, None, terms, table.shape[-1])

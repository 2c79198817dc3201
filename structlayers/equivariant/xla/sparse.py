"""Products by their non-zero coefficients: few are listed in the program, more are summed."""

import jax
import jax.numpy as jnp

from structlayers._core.dispatch import current_platform
from structlayers.equivariant import tables
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.paths import FEW_TERMS, FEW_TERMS_ON_CPU, PathTable
from structlayers.equivariant.precision import TablePrecision
from structlayers.equivariant.xla.terms import coupling_form, sum_terms
from structlayers.equivariant.xla.transforms import lmax_of


def product_of_terms(
    x: jax.Array, y: jax.Array, weights: jax.Array | None, table: PathTable
) -> jax.Array:
    """Every non-zero term by itself, summed into the coefficient that it belongs to.

    Args:
        x: `(..., d1)`, float32 or float64.
        y: `(..., d2)` of the same rank and dtype; leading axes broadcast.
        weights: `(..., P)`, the same; None is 1.
        table: of d1, d2 and d3 coefficients, and P paths.

    Returns:
        `(..., d3)`; x, y and the weights alone are kept.
    """
    few = FEW_TERMS_ON_CPU if current_platform() == "cpu" else FEW_TERMS
    if len(table.terms().value) <= few:
        return _listed(x, y, weights, table)
    factors, axes = ([x, y], (0, 1)) if weights is None else ([x, y, weights], (0, 1, 3))
    return sum_terms(factors, coupling_form(table), axes, 2)


def _listed(x: jax.Array, y: jax.Array, weights: jax.Array | None, table: PathTable) -> jax.Array:
    """One multiplication each, in one fused loop over the rows."""
    factors = [x, y] if weights is None else [x, y, weights]
    lead = jnp.broadcast_shapes(*(factor.shape[:-1] for factor in factors))
    # taken apart and repeated once: the derivative sums each and puts it together once
    left, right, *given = (
        [jnp.broadcast_to(factor[..., i], lead) for i in range(factor.shape[-1])]
        for factor in factors
    )
    sums = [jnp.zeros(lead, x.dtype)] * table.sizes[2]
    terms = table.terms()
    columns = (terms.index1, terms.index2, terms.index3, terms.path, terms.value)
    for i, j, k, path, value in zip(*(column.tolist() for column in columns), strict=True):
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
    return product_of_terms(x, y, None, tables.gaunt_table(lmax_of(x), lmax_of(y), lmax))

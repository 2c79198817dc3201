"""Clebsch-Gordan products through XLA: one dense coupling tensor, or its non-zero terms.

Factors, and weights if there are any, come with one rank and one dtype, float32 or float64.
"""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.paths import PathTable, block_offsets
from structlayers.equivariant.xla.sparse import product_of_terms


def clebsch_gordan_sparse(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array | None,
    *,
    table: PathTable,
    precision: jax.lax.Precision,
) -> jax.Array:
    """Every non-zero term by itself, summed into the coefficient that it belongs to."""
    del precision
    return product_of_terms(x, y, weights, table)


def clebsch_gordan_dense(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array | None,
    *,
    table: PathTable,
    precision: jax.lax.Precision,
) -> jax.Array:
    """Outer product of the factors times the coupling tensor `(d1 d2, d3)`.

    Weights that differ between rows need the columns of every path by themselves.
    """
    size1, size2, size3 = table.sizes
    terms = table.terms()
    rows = terms.index1 * size2 + terms.index2
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    outer = (x[..., :, None] * y[..., None, :]).reshape(*lead, size1 * size2)

    def coupled(columns: np.ndarray, width: int) -> jax.Array:
        # not made in the program, which would take seconds to evaluate when it is compiled
        constant = np.zeros((size1 * size2, width))
        np.add.at(constant, (rows, columns), terms.value)
        return jnp.matmul(outer, jnp.asarray(constant, x.dtype), precision=precision)

    if weights is None:
        return coupled(terms.index3, size3)
    if weights.size == weights.shape[-1]:
        values = weights.reshape(-1)[terms.path] * jnp.asarray(terms.value, x.dtype)
        tensor = jnp.zeros((size1 * size2, size3), x.dtype).at[rows, terms.index3].add(values)
        return jnp.matmul(outer, tensor, precision=precision)
    of_path = np.asarray([path[2] for path in table.paths], int)
    widths = 2 * np.asarray(table.degrees3, int)[of_path] + 1
    ends = np.cumsum(widths)
    # from the start of a block of the product to that of the same block of one path
    moved = ends - widths - np.asarray(block_offsets(table.degrees3))[of_path]
    path = np.repeat(np.arange(len(widths)), widths)
    each = coupled(terms.index3 + moved[terms.path], len(path))
    # by products with ones and zeros, whose transposes are such, not scattered additions
    spread = path == np.arange(len(widths))[:, None]
    back = (np.arange(len(path)) - moved[path])[:, None] == np.arange(size3)
    each = each * jnp.matmul(weights, jnp.asarray(spread, x.dtype), precision="highest")
    return jnp.matmul(each, jnp.asarray(back, x.dtype), precision="highest")


def signal_product(
    x: jax.Array,
    y: jax.Array,
    *,
    table: PathTable,
    precision: jax.lax.Precision,
    **static: object,
) -> jax.Array:
    """A product of signals by its dense coupling tensor; the rest says how others compute it."""
    del static
    return clebsch_gordan_dense(x, y, None, table=table, precision=precision)

"""Clebsch-Gordan products through XLA: one dense coupling tensor, or its non-zero terms.

Factors, and weights if there are any, come with one rank and one dtype, float32 or float64.
"""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.paths import PathTable, block_offsets


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
    terms = table.terms()
    products = x[..., terms.index1] * y[..., terms.index2]
    products = products * jnp.asarray(terms.value, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    if weights is not None:
        products = products * weights[..., terms.path]
    out = jnp.zeros((*products.shape[:-1], table.sizes[2]), x.dtype)
    return out.at[..., terms.index3].add(products, indices_are_sorted=True)


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
    values = jnp.asarray(terms.value, x.dtype)
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    outer = (x[..., :, None] * y[..., None, :]).reshape(*lead, size1 * size2)

    def couple(columns: np.ndarray, width: int, values: jax.Array) -> jax.Array:
        tensor = jnp.zeros((size1 * size2, width), x.dtype).at[rows, columns].add(values)
        return jnp.matmul(outer, tensor, precision=precision)

    if weights is None:
        # not in the program, which would take seconds to evaluate when it is compiled
        constant = np.zeros((size1 * size2, size3))
        np.add.at(constant, (rows, terms.index3), terms.value)
        return jnp.matmul(outer, jnp.asarray(constant, x.dtype), precision=precision)
    if weights.size == weights.shape[-1]:
        return couple(terms.index3, size3, weights.reshape(-1)[terms.path] * values)
    of_path = np.asarray([path[2] for path in table.paths], int)
    widths = 2 * np.asarray(table.degrees3, int)[of_path] + 1
    ends = np.cumsum(widths)
    # from the start of a block of the product to that of the same block of one path
    moved = ends - widths - np.asarray(block_offsets(table.degrees3))[of_path]
    total = int(np.sum(widths))
    each = couple(terms.index3 + moved[terms.path], total, values)
    each = each * weights[..., np.repeat(np.arange(len(widths)), widths)]
    back = np.arange(total) - np.repeat(moved, widths)
    out = jnp.zeros((*each.shape[:-1], size3), x.dtype)
    return out.at[..., back].add(each)


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

"""Clebsch-Gordan products through XLA: one dense coupling tensor, or its non-zero terms."""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.precision import accumulation_dtype
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
    wide, terms = accumulation_dtype(x.dtype), table.terms()
    products = x[..., terms.index1].astype(wide) * y[..., terms.index2].astype(wide)
    products = products * jnp.asarray(terms.value, wide).reshape((1,) * (x.ndim - 1) + (-1,))
    if weights is not None:
        products = products * weights[..., terms.path].astype(wide)
    out = jnp.zeros((*products.shape[:-1], table.sizes[2]), wide)
    out = out.at[..., terms.index3].add(products, indices_are_sorted=True)
    return out.astype(x.dtype)


def clebsch_gordan_dense(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array | None,
    *,
    table: PathTable,
    precision: jax.lax.Precision,
) -> jax.Array:
    """Outer product of the factors times the coupling tensor `(d1 d2, d3)`.

    Weights that differ between rows need the tensor of every path beside the other, d3 per path.
    """
    size1, size2, size3 = table.sizes
    wide, terms = accumulation_dtype(x.dtype), table.terms()
    rows = terms.index1 * size2 + terms.index2
    values = jnp.asarray(terms.value, wide)
    outer = (x[..., :, None] * y[..., None, :]).reshape(*_lead(x, y), size1 * size2)

    def couple(columns: np.ndarray, width: int, values: jax.Array) -> jax.Array:
        tensor = jnp.zeros((size1 * size2, width), wide).at[rows, columns].add(values)
        return jnp.matmul(
            outer, tensor.astype(outer.dtype), precision=precision, preferred_element_type=wide
        )

    if weights is None or weights.size == weights.shape[-1]:
        if weights is not None:
            values = weights.reshape(-1)[terms.path].astype(wide) * values
            lead = jnp.broadcast_shapes(outer.shape[:-1], weights.shape[:-1])
            outer = jnp.broadcast_to(outer, (*lead, size1 * size2))
        return couple(terms.index3, size3, values).astype(x.dtype)
    of_path = np.asarray([path[2] for path in table.paths], int)
    widths = 2 * np.asarray(table.degrees3)[of_path] + 1
    ends = np.cumsum(widths)
    # from the start of a block of the product to that of the same block of one path
    moved = ends - widths - np.asarray(block_offsets(table.degrees3))[of_path]
    each = couple(terms.index3 + moved[terms.path], int(ends[-1]), values)
    each = each * jnp.repeat(weights.astype(wide), widths, axis=-1, total_repeat_length=ends[-1])
    back = np.arange(ends[-1]) - np.repeat(moved, widths)
    out = jnp.zeros((*each.shape[:-1], size3), wide).at[..., back].add(each)
    return out.astype(x.dtype)


def _lead(x: jax.Array, y: jax.Array) -> tuple[int, ...]:
    return jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])


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

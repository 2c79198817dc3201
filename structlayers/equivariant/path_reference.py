"""The definitions of the products over paths, one path at a time. Oracle of the tests.

Plain `jax.numpy`; float64 under `jax.enable_x64`.
"""

import jax
import jax.numpy as jnp

from structlayers.equivariant.paths import PathTable, block_offsets


def clebsch_gordan_tensor_product(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array | None,
    *,
    table: PathTable,
    precision: object = None,
) -> jax.Array:
    """`z_k = sum over paths of w C(x_i, y_j)`, each path an einsum of its own."""
    del precision
    starts1, starts2 = block_offsets(table.degrees1), block_offsets(table.degrees2)
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    blocks = [jnp.zeros((*lead, 2 * degree + 1), x.dtype) for degree in table.degrees3]
    for position, path in enumerate(table.paths):
        i, j, k = path
        product = jnp.einsum(
            "...a,...b,abc->...c",
            x[..., starts1[i] : starts1[i + 1]],
            y[..., starts2[j] : starts2[j + 1]],
            jnp.asarray(table.tensor(position), x.dtype),
            precision="highest",
        )
        if weights is not None:
            product = product * weights[..., position, None]
        blocks[k] = blocks[k] + product
    return jnp.concatenate(blocks, axis=-1)


def signal_product(x: jax.Array, y: jax.Array, *, table: PathTable, **static: object) -> jax.Array:
    """A product of signals by the paths of its table; the rest says how others compute it."""
    del static
    return clebsch_gordan_tensor_product(x, y, None, table=table)

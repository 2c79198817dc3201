"""The definitions, path by path with exact coefficients. Oracle of the tests.

Plain `jax.numpy`, any floating dtype; float64 under `jax.enable_x64`. Signals are coefficients
`(..., (L + 1)^2)` of equal rank whose leading axes broadcast.
"""

from typing import Any

import jax
import jax.numpy as jnp

from structlayers.equivariant.paths import tensor_product_paths
from structlayers.equivariant.wigner import gaunt


def _lmax(x: jax.Array) -> int:
    return round(x.shape[-1] ** 0.5) - 1


def gaunt_tensor_product(
    x: jax.Array, y: jax.Array, *, lmax: int, grid: Any = None, precision: Any = None
) -> jax.Array:
    """`z_c = sum over paths (a, b, c) and m of G x_a y_b`.

    Args:
        x: `(..., (L1 + 1)^2)`.
        y: `(..., (L2 + 1)^2)`.
        lmax: L3.
        grid: not used: integrals are exact.
        precision: not used: products are true.

    Returns:
        `(..., (L3 + 1)^2)`.
    """
    del grid, precision
    degrees = (range(largest + 1) for largest in (_lmax(x), _lmax(y), lmax))
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    blocks = [jnp.zeros((*lead, 2 * degree + 1), x.dtype) for degree in range(lmax + 1)]
    for a, b, c in tensor_product_paths(*degrees, couplings="even"):
        blocks[c] = blocks[c] + jnp.einsum(
            "...i,...j,ijk->...k",
            x[..., a**2 : (a + 1) ** 2],
            y[..., b**2 : (b + 1) ** 2],
            jnp.asarray(gaunt(a, b, c), x.dtype),
            precision="highest",
        )
    return jnp.concatenate(blocks, axis=-1)


def many_body_product(
    x: jax.Array, *, order: int, lmax: int, grid: Any = None, precision: Any = None
) -> jax.Array:
    """Powers 2 to nu by products of two, no degree left out before the last.

    Args:
        x: `(..., (L + 1)^2)`.
        order: nu, at least 2.
        lmax: the largest degree of the results.
        grid: not used.
        precision: not used.

    Returns:
        `(..., nu - 1, (lmax + 1)^2)`.
    """
    del grid, precision
    power, projected = x, []
    for _ in range(order - 1):
        power = gaunt_tensor_product(power, x, lmax=_lmax(power) + _lmax(x))
        projected.append(_keep_degrees(power, lmax))
    return jnp.stack(projected, axis=-2)


def _keep_degrees(x: jax.Array, lmax: int) -> jax.Array:
    size = (lmax + 1) ** 2
    missing = max(size - x.shape[-1], 0)
    return jnp.pad(x[..., :size], [(0, 0)] * (x.ndim - 1) + [(0, missing)])

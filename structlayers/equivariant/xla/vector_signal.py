"""Products of vector fields on an exact grid: three numbers a point, one cross product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.precision import accumulation_dtype
from structlayers.equivariant.paths import PathTable
from structlayers.equivariant.vector_harmonics import Offsets, vector_spherical_harmonics


def quadrature(degree):
    nodes, w = np.polynomial.legendre.leggauss((degree + 2) // 2)
    a = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    s = np.sqrt(1 - nodes**2)[:, None]
    p = np.stack(np.broadcast_arrays(s * np.sin(a), nodes[:, None], s * np.cos(a)), -1)
    return p.reshape(-1, 3), np.repeat(w * 2 * np.pi / (degree + 1), degree + 1)


@functools.cache
def _tables(degrees: tuple[int, int, int], offsets: Offsets) -> tuple[np.ndarray, ...]:
    """Float64 `(3 N, (L + 1)^2)` of the factors, and of the product with quadrature weights."""
    bands = [max(degree + offset, 0) for degree, offset in zip(degrees, offsets, strict=True)]
    points, weights = quadrature(sum(bands))
    first, second, third = (
        vector_spherical_harmonics(degree, points, offset)
        for degree, offset in zip(degrees, offsets, strict=True)
    )
    third = third * weights[:, None]
    return tuple(table.reshape(-1, table.shape[-1]) for table in (first, second, third))


def vector_signal_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    table: PathTable,
    offsets: Offsets,
    precision: jax.lax.Precision,
) -> jax.Array:
    """To the grid, cross product, and back."""
    wide = accumulation_dtype(x.dtype)
    degrees = len(table.degrees1) - 1, len(table.degrees2) - 1, len(table.degrees3) - 1
    first, second, third = _tables(degrees, offsets)

    def product(signal: jax.Array, matrix: np.ndarray) -> jax.Array:
        return jnp.matmul(
            signal,
            jnp.asarray(matrix, signal.dtype),
            precision=precision,
            preferred_element_type=wide,
        )

    f, g = (
        jnp.stack(jnp.split(product(signal, matrix.T), 3, axis=-1), axis=-2)
        for signal, matrix in ((x, first), (y, second))
    )
    field = jnp.cross(f, g, axis=-2)
    return product(field.reshape(*field.shape[:-2], -1), third).astype(x.dtype)

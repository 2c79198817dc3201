"""Products of signals as matrices: representation of the couplings by one matrix product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.precision import accumulation_dtype
from structlayers.equivariant.matrix_basis import matrix_basis
from structlayers.equivariant.paths import PathTable


@functools.cache
def _basis(lmax: int, spin: int) -> np.ndarray:
    """Float64 `((L + 1)^2, (2 s + 1)^2)`, orthonormal rows."""
    return matrix_basis(lmax, spin).reshape((lmax + 1) ** 2, -1)


def matrix_tensor_product(
    x: jax.Array,
    y: jax.Array,
    *,
    table: PathTable,
    spin: int,
    couplings: str,
    precision: jax.lax.Precision,
) -> jax.Array:
    """`X Y`, its symmetric part or its commutator, read off in the basis of matrices."""
    wide, size = accumulation_dtype(x.dtype), 2 * spin + 1
    bases = [_basis(len(d) - 1, spin) for d in (table.degrees1, table.degrees2, table.degrees3)]

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.matmul(left, right, precision=precision, preferred_element_type=wide)

    first, second = (
        product(signal, jnp.asarray(basis, signal.dtype)).reshape(*signal.shape[:-1], size, size)
        for signal, basis in zip((x, y), bases, strict=False)
    )
    matrix = product(first, second)
    if couplings != "all":
        other = product(second, first)
        matrix = (matrix + other if couplings == "even" else matrix - other) / 2
    flat = matrix.reshape(*matrix.shape[:-2], size * size)
    return product(flat, jnp.asarray(bases[2].T, wide)).astype(x.dtype)

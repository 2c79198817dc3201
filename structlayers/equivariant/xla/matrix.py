"""Products of signals as matrices: the couplings of one spin by one matrix product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.matrix_basis import matrix_basis
from structlayers.equivariant.paths import PathTable
from structlayers.equivariant.xla.products import apply_table


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
    size = 2 * spin + 1
    bases = [_basis(len(d) - 1, spin) for d in (table.degrees1, table.degrees2, table.degrees3)]
    first, second = (
        apply_table(signal, basis, precision).reshape(*signal.shape[:-1], size, size)
        for signal, basis in zip((x, y), bases, strict=False)
    )
    matrix = jnp.matmul(first, second, precision=precision)
    if couplings != "all":
        other = jnp.matmul(second, first, precision=precision)
        matrix = (matrix + other if couplings == "even" else matrix - other) / 2
    return apply_table(matrix.reshape(*matrix.shape[:-2], size * size), bases[2].T, precision)

"""Symmetric powers of irreps: which polynomials of one vector are equivariant, in NumPy float64.

The product of order nu of a vector with itself is symmetric in its factors, so that a polynomial of
`binomial(d + nu - 1, nu)` monomials says all that a tensor of `d^nu` entries does.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from math import factorial, prod
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class SymmetricBasis:
    """An orthonormal basis of the equivariant polynomials of one order.

    Attributes:
        indices: int32 `(nu, K)`, the entries that every monomial multiplies, in ascending order.
        irreps: irreps of the polynomials, `e3nn_jax.Irreps`; multiplicities are numbers of paths.
        matrix: float64 `(K, irreps.dim)`, from monomials to polynomials.
    """

    indices: np.ndarray
    irreps: Any
    matrix: np.ndarray


@functools.cache
def symmetric_basis(irreps: Any, order: int, irreps_out: Any) -> SymmetricBasis:
    """The equivariant polynomials of some order, with values in given irreps.

    Args:
        irreps: `e3nn_jax.Irreps` of the vector, of d entries.
        order: nu, at least 1.
        irreps_out: irreps to keep.

    Returns:
        The basis: as tensors of `d^nu` entries, its polynomials have norm 1.

    Example:
        >>> import e3nn_jax as e3nn
        >>> basis = symmetric_basis(e3nn.Irreps("0e + 1o"), 2, e3nn.Irreps("0e + 1o"))
        >>> basis.irreps, basis.matrix.shape  # a^2, b.b and a b
        (2x0e+1x1o, (10, 5))
    """
    import e3nn_jax as e3nn

    found = e3nn.reduced_symmetric_tensor_product_basis(
        irreps, order, keep_ir=[ir for _, ir in irreps_out]
    )
    tensor = np.asarray(found.array, np.float64)
    size = irreps.dim
    indices = np.array(list(itertools.combinations_with_replacement(range(size), order)), np.int32)
    # each monomial stands in the tensor once for every order of its factors
    counts = [
        factorial(order) // prod(factorial(n) for n in Counter(row).values())
        for row in indices.tolist()
    ]
    matrix = tensor[tuple(indices.T)] * np.asarray(counts, np.float64)[:, None]
    return SymmetricBasis(np.ascontiguousarray(indices.T), found.irreps, matrix)

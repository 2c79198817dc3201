"""Signals, exact products and bounds that the tests of the kernel for GPUs share."""

import functools

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from structlayers.equivariant.pointwise import largest_degree
from structlayers.equivariant.wigner import couples, gaunt

BOUNDS = {"tf32": 1e-3, "3xtf32": 1e-6, "bf16": 8e-3}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
NATURAL = [("tf32", "float32"), ("3xtf32", "float32"), ("bf16", "bfloat16")]
FORWARD = (0, 1)


def random_rows(seed, rows, lmax, dtype):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, (lmax + 1) ** 2)).astype(DTYPES[dtype])


@functools.cache
def coefficients(l1, l2, l3):
    """All Gaunt coefficients of signals of these degrees, float64."""
    sizes = [(degree + 1) ** 2 for degree in (l1, l2, l3)]
    table = np.zeros(sizes)
    for a in range(l1 + 1):
        for b in range(l2 + 1):
            for c in range(l3 + 1):
                if couples(a, b, c):
                    place = tuple(slice(n**2, (n + 1) ** 2) for n in (a, b, c))
                    table[place] = gaunt(a, b, c)
    return table


def exact(x, y, l3):
    table = coefficients(largest_degree(x.shape[1]), largest_degree(y.shape[1]), l3)
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.einsum("ri,rj,ijk->rk", x, y, table, optimize=True)


def exact_product(arrays, product):
    """A sum of terms: factor by factor, all degrees kept until the last one."""
    found = 0
    for term in product.terms:
        value = arrays[term.factors[0]]
        for factor in term.factors[1:-1]:
            degree = largest_degree(value.shape[1]) + largest_degree(arrays[factor].shape[1])
            value = exact(value, arrays[factor], degree)
        found += term.scale * exact(value, arrays[term.factors[-1]], product.degree)
    return found


def by_coefficients(arrays, product):
    """`exact_product` in JAX."""
    found = jnp.zeros(())
    for term in product.terms:
        value = arrays[term.factors[0]]
        for n, factor in enumerate(term.factors[1:], 2):
            degrees = [largest_degree(a.shape[-1]) for a in (value, arrays[factor])]
            kept = product.degree if n == len(term.factors) else sum(degrees)
            table = coefficients(*degrees, kept)
            value = jnp.einsum(
                "...i,...j,ijk->...k", value, arrays[factor], table, precision="highest"
            )
        found = found + term.scale * value
    return found

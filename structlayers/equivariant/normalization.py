"""Variances of products of random signals, which layers divide by. NumPy float64, exact.

Coefficients are independent and standard normal.
"""

import functools
from math import factorial

import numpy as np

from structlayers.equivariant.wigner import gaunt_factor


@functools.cache
def product_variance(l1max: int, l2max: int, l3max: int) -> np.ndarray:
    """Variance of one coefficient of a Gaunt product, for every degree, `(L3 + 1,)`.

    `sum over l1, l2 of gaunt_factor^2 / (2 l3 + 1)`, as coupling tensors have norm 1.

    Args:
        l1max: L1.
        l2max: L2.
        l3max: L3.

    Example:
        >>> product_variance(4, 4, 4)[[0, 4]].round(2).tolist()
        [1.99, 0.91]
    """
    variances = np.zeros(l3max + 1)
    for degree in range(l3max + 1):
        factors = [
            gaunt_factor(a, b, degree) ** 2 for a in range(l1max + 1) for b in range(l2max + 1)
        ]
        variances[degree] = sum(factors) / (2 * degree + 1)
    variances.setflags(write=False)
    return variances


@functools.cache
def power_variance(lmax: int, power: int, l3max: int) -> np.ndarray:
    r"""Mean square of one coefficient of a power of a signal, for every degree, `(L3 + 1,)`.

    Values at two points are normal with a correlation r that depends on their angle. Expanded in
    Hermite polynomials, `E[u^p v^p] = sum_k c_k^2 k! r^k`, and its Legendre series is the answer.

    Args:
        lmax: L of the signal.
        power: p.
        l3max: L3.

    Example:
        >>> power_variance(2, 1, 3).round(12).tolist()
        [1.0, 1.0, 1.0, 0.0]
    """
    nodes, weights = np.polynomial.legendre.leggauss((power * lmax + l3max) // 2 + 1)
    series = (2 * np.arange(lmax + 1) + 1) / (4 * np.pi)
    variance = series.sum()
    correlation = np.polynomial.legendre.legval(nodes, series) / variance
    moment = np.zeros_like(nodes)
    for k in range(power % 2, power + 1, 2):
        half = (power - k) // 2
        coefficient = factorial(power) / (2**half * factorial(half) * factorial(k))
        moment += coefficient**2 * factorial(k) * correlation**k
    legendre = np.polynomial.legendre.legvander(nodes, l3max)
    squares = 2 * np.pi * variance**power * (weights * moment) @ legendre
    squares.setflags(write=False)
    return squares

"""Wigner 3j symbols by integer arithmetic, and the coupling coefficients of real harmonics.

Tables are NumPy float64, computed once and read-only. Within a degree l the order is m = -l..l:
sin(|m| a) for m < 0, cos(m a) for m > 0, polar axis y, as in e3nn.
"""

import functools
from fractions import Fraction
from math import comb, factorial, sqrt

import numpy as np

from structlayers._core.checks import require_integer


def require_degree(name: str, value: int) -> int:
    """Returns `value` as an int >= 0.

    Raises:
        TypeError: not an integer.
        ValueError: negative.

    Example:
        >>> require_degree("lmax", 2)
        2
    """
    value = require_integer(name, value)
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


def couples(l1: int, l2: int, l3: int) -> bool:
    """Whether three degrees satisfy the triangle rule `|l1 - l2| <= l3 <= l1 + l2`.

    Example:
        >>> couples(1, 1, 2), couples(1, 1, 3)
        (True, False)
    """
    return abs(l1 - l2) <= l3 <= l1 + l2


def wigner_3j(l1: int, l2: int, l3: int, m1: int, m2: int, m3: int) -> float:
    r"""The Wigner 3j symbol of integer degrees, to the last bit or two of float64.

    Racah's sum is an integer S, and the symbol `S sqrt(q)` with a rational q: both are exact, and
    only their quotient and root are rounded.

    Args:
        l1: degree, at least 0.
        l2: degree.
        l3: degree.
        m1: order; the symbol is 0 unless `|m1| <= l1`, and so on.
        m2: order.
        m3: order; the symbol is 0 unless `m1 + m2 + m3 = 0`.

    Returns:
        `(l1 l2 l3; m1 m2 m3)`.

    Raises:
        TypeError: a degree that is no integer.
        ValueError: a negative degree.

    Example:
        >>> round(wigner_3j(1, 1, 0, 0, 0, 0) * sqrt(3), 15)
        -1.0

    References:
        Edmonds, "Angular Momentum in Quantum Mechanics", 1957, equation 3.6.11 with 3.7.3.
    """
    for name, degree in (("l1", l1), ("l2", l2), ("l3", l3)):
        require_degree(name, degree)
    orders_fit = abs(m1) <= l1 and abs(m2) <= l2 and abs(m3) <= l3 and m1 + m2 + m3 == 0
    if not orders_fit or not couples(l1, l2, l3):
        return 0.0
    a, b, c = l1 + l2 - l3, l1 - l2 + l3, -l1 + l2 + l3
    # sum over k of (-1)^k binomials, with the factorials of a, b, c taken out of Racah's formula
    total = sum(
        (-1) ** k * comb(a, k) * comb(b, l1 - m1 - k) * comb(c, l2 + m2 - k)
        for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(a, l1 - m1, l2 + m2) + 1)
    )
    orders = 1
    for degree, order in ((l1, m1), (l2, m2), (l3, m3)):
        orders *= factorial(degree + order) * factorial(degree - order)
    scale = Fraction(
        orders, factorial(a) * factorial(b) * factorial(c) * factorial(l1 + l2 + l3 + 1)
    )
    sign = (-1) ** (l1 - l2 - m3) * (1 if total >= 0 else -1)
    return sign * sqrt(total * total * scale)


@functools.cache
def _complex_from_real(degree: int) -> np.ndarray:
    """Unitary `(2l + 1, 2l + 1)` from real to complex harmonics, with the phase (-i)^l.

    The phase makes coupling coefficients of real harmonics real.
    """
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), np.complex128)
    matrix[degree, degree] = 1
    for m in range(1, degree + 1):
        plus, minus = degree + m, degree - m
        matrix[minus, plus], matrix[minus, minus] = sqrt(0.5), -1j * sqrt(0.5)
        matrix[plus, plus], matrix[plus, minus] = (-1) ** m * sqrt(0.5), (-1) ** m * 1j * sqrt(0.5)
    return (-1j) ** degree * matrix


@functools.cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    r"""The coupling tensor of real harmonics: the one invariant of three degrees.

    `C[i, j, k]` with `sum C^2 = 1`, invariant under the rotations of all three axes. Equal to
    `e3nn_jax.clebsch_gordan`, sign included.

    Args:
        l1: degree.
        l2: degree.
        l3: degree.

    Returns:
        float64 `(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)`, read-only; zero where the degrees do not couple.

    Raises:
        TypeError: a degree that is no integer.
        ValueError: a negative degree.

    Example:
        >>> cross = clebsch_gordan(1, 1, 1)  # x cross y, over sqrt(6)
        >>> round(float(cross[0, 1, 2] * sqrt(6)), 12)
        1.0

    References:
        Homeier, Steinborn, "Some properties of the coupling coefficients of real spherical
        harmonics and their relation to Gaunt coefficients", 1996, equations 3 to 9.
    """
    complex_basis = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    if couples(l1, l2, l3):
        for m1 in range(-l1, l1 + 1):
            for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
                symbol = wigner_3j(l1, l2, l3, m1, m2, -m1 - m2)
                # <l1 m1 l2 m2 | l3 m3> / sqrt(2 l3 + 1)
                complex_basis[l1 + m1, l2 + m2, l3 + m1 + m2] = (-1) ** (l1 - l2 + m1 + m2) * symbol
    real = np.einsum(
        "ai,bj,ck,abc->ijk",
        _complex_from_real(l1),
        _complex_from_real(l2),
        _complex_from_real(l3).conj(),
        complex_basis,
        optimize=True,
    ).real.copy()
    real.setflags(write=False)
    return real


@functools.cache
def gaunt_factor(l1: int, l2: int, l3: int) -> float:
    r"""What a Gaunt tensor is of the coupling tensor: `gaunt = gaunt_factor * clebsch_gordan`.

    `sqrt((2 l1 + 1)(2 l2 + 1)(2 l3 + 1) / (4 pi)) |(l1 l2 l3; 0 0 0)|`, positive for every path
    whose degrees have an even sum, and 0 for odd sums.

    Args:
        l1: degree.
        l2: degree.
        l3: degree.

    Returns:
        The factor.

    Example:
        >>> round(gaunt_factor(0, 0, 0) * sqrt(4 * np.pi), 12), gaunt_factor(1, 1, 1)
        (1.0, 0.0)

    References:
        Gaunt, "The triplets of helium", 1929, appendix.
    """
    size = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
    return sqrt(size / (4 * np.pi)) * abs(wigner_3j(l1, l2, l3, 0, 0, 0))


@functools.cache
def gaunt(l1: int, l2: int, l3: int) -> np.ndarray:
    r"""Integrals over the sphere of three real orthonormal harmonics.

    .. math:: G[i, j, k] = \int Y_{l_1 i} Y_{l_2 j} Y_{l_3 k}

    Args:
        l1: degree.
        l2: degree.
        l3: degree.

    Returns:
        float64 `(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)`, read-only; zero for an odd sum of degrees.

    Raises:
        TypeError: a degree that is no integer.
        ValueError: a negative degree.

    Example:
        >>> round(float(gaunt(0, 1, 1)[0, 2, 2] * sqrt(4 * np.pi)), 12)
        1.0

    References:
        Gaunt, "The triplets of helium", 1929, appendix.
        Luo, Chen, Krishnapriyan, "Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products", 2024, arXiv:2401.10216, section 3.1.
    """
    tensor = gaunt_factor(l1, l2, l3) * clebsch_gordan(l1, l2, l3)
    tensor.setflags(write=False)
    return tensor

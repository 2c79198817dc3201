r"""Vector spherical harmonics: fields of vectors on the sphere, in NumPy float64.

A harmonic of degree l coupled with the three axes gives fields of degree j = l - 1, l, l + 1,

.. math:: V_{j l m}(p) = \sqrt{2 j + 1} \sum_{m' a} C^{l 1 j}_{m' a m} Y_{l m'}(p) e_a

orthonormal under the integral of the dot product. Their `offset` is `l - j`: those of offset -1 are
gradients of the solid harmonics of degree j, those of 0 are tangential and magnetic, and those of 1
decay. Degree 0 has offset 1 alone, the radial field.
"""

import functools
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.paths import Path
from structlayers.equivariant.wigner import clebsch_gordan, couples, gaunt, require_degree

type Offsets = tuple[int, int, int]

# Levi-Civita symbol
_CROSS = np.zeros((3, 3, 3))
for _a, _b, _c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _CROSS[_a, _b, _c], _CROSS[_b, _a, _c] = 1, -1


def has_field(degree: int, offset: int) -> bool:
    """Whether there is a vector harmonic of a degree j with `l = j + offset`.

    Example:
        >>> has_field(0, 1), has_field(0, 0), has_field(1, -1)
        (True, False, True)
    """
    return degree + offset >= 0 and couples(degree + offset, 1, degree)


def _axes(degree: int, offset: int) -> np.ndarray:
    """`(2 l + 1, 3, 2 j + 1)`: what each harmonic gives to each axis."""
    return sqrt(2 * degree + 1) * clebsch_gordan(degree + offset, 1, degree)


def vector_spherical_harmonics(lmax: int, points: ArrayLike, offset: int) -> np.ndarray:
    r"""Vector spherical harmonics of degrees 0..L with one offset, at some directions.

    .. math:: \int V_i \cdot V_j = \delta_{i j}

    Args:
        lmax: the largest degree L.
        points: `(N, 3)`, of any length but zero.
        offset: `l - j`: -1, 0 or 1.

    Returns:
        float64 `(3, N, (L + 1)^2)`: axis, point, coefficient; degree 0 is zero unless offset is 1.

    Raises:
        ValueError: a negative degree, another offset, or points that are no directions.

    Example:
        >>> constant = vector_spherical_harmonics(1, [[0.6, 0.8, 0.0]], -1)[:, 0, 1:]
        >>> (constant * (4 * np.pi) ** 0.5).round(6).tolist()  # degree 1: the axes themselves
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    References:
        Barrera, Estevez, Giraldo, "Vector spherical harmonics and their application to
        magnetostatics", 1985, section 3; Varshalovich, Moskalev, Khersonskii, "Quantum Theory of
        Angular Momentum", 1988, section 7.3.
    """
    lmax = require_degree("lmax", lmax)
    if offset not in (-1, 0, 1):
        raise ValueError(f"offset must be -1, 0 or 1, got {offset!r}")
    values = spherical_harmonics(lmax + max(offset, 0), points)
    table = np.zeros((3, len(values), (lmax + 1) ** 2))
    for degree in range(lmax + 1):
        if has_field(degree, offset):
            scalar = degree + offset
            table[:, :, degree**2 : (degree + 1) ** 2] = np.einsum(
                "ni,iam->anm",
                values[:, scalar**2 : (scalar + 1) ** 2],
                _axes(degree, offset),
            )
    return table


@functools.cache
def vector_gaunt_factor(path: Path, offsets: Offsets) -> float:
    r"""What a product of vector fields is of the coupling tensor of its degrees.

    .. math:: \int V_{l_3 k} \cdot (V_{l_1 i} \times V_{l_2 j}) =
        \mathrm{factor} \cdot C^{l_1 l_2 l_3}_{i j k}

    Zero unless `l1 + l2 + l3 + sum(offsets)` is even, so that the offsets alone say whether a
    product has the even or the odd couplings. With all three -1 it is positive for every odd sum.

    Args:
        path: (l1, l2, l3).
        offsets: of the three fields.

    Returns:
        The factor, from Gaunt and coupling tensors: no grid.

    Example:
        >>> round(vector_gaunt_factor((1, 1, 1), (-1, -1, -1)) * (4 * np.pi / 6) ** 0.5, 12)
        1.0
    """
    pairs = list(zip(path, offsets, strict=True))
    scalars = [degree + offset for degree, offset in pairs]
    exist = all(has_field(*pair) for pair in pairs)
    if not (exist and couples(*path) and couples(*scalars)) or sum(scalars) % 2:
        return 0.0
    # an invariant tensor: the ratio at the largest entry is that of all
    coupling = clebsch_gordan(*path)
    entry = np.unravel_index(np.argmax(np.abs(coupling)), coupling.shape)
    first, second, third = (_axes(*pair)[:, :, m] for pair, m in zip(pairs, entry, strict=True))
    field = np.tensordot(first, gaunt(*scalars), (0, 0))  # a, q, r
    field = np.tensordot(field, second, (1, 0))  # a, r, b
    field = np.tensordot(field, third, (1, 0))  # a, b, c
    return float(np.sum(field * _CROSS) / coupling[entry])

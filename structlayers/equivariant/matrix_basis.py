r"""Signals as square matrices: a basis of the operators of one spin, in NumPy float64.

The `(2 s + 1) x (2 s + 1)` matrices of an integer spin s split into the degrees 0..2 s, each once:

.. math:: M(x) = \sum_{l m} \sqrt{2 l + 1} \, C^{s s l}_{i j m} x_{l m}

Even degrees are symmetric, odd ones antisymmetric, so that transposition exchanges the couplings of
even and of odd sum: they are the anticommutator and the commutator of two matrices.
"""

import functools
from math import sqrt

import numpy as np

from structlayers.equivariant.paths import Path
from structlayers.equivariant.wigner import clebsch_gordan, couples


def matrix_basis(lmax: int, spin: int) -> np.ndarray:
    """Orthonormal matrices of the degrees 0..L.

    Args:
        lmax: L, at most `2 spin`.
        spin: s, an integer.

    Returns:
        float64 `((L + 1)^2, 2 s + 1, 2 s + 1)`.

    Raises:
        ValueError: degrees that matrices of the spin do not have.

    Example:
        >>> basis = matrix_basis(2, 1)
        >>> np.allclose(np.einsum("mij,nij->mn", basis, basis), np.eye(9))
        True
    """
    if lmax > 2 * spin:
        raise ValueError(f"matrices of spin {spin} have degrees up to {2 * spin}, not {lmax}")
    blocks = [
        sqrt(2 * degree + 1) * clebsch_gordan(spin, spin, degree).transpose(2, 0, 1)
        for degree in range(lmax + 1)
    ]
    return np.concatenate(blocks)


@functools.cache
def matrix_factor(path: Path, spin: int) -> float:
    """What a product of two basis matrices is of the coupling tensor of its degrees.

    A 6j symbol with three entries s but for its normalisation; it may vanish by accident.

    Args:
        path: (l1, l2, l3), each at most `2 spin`.
        spin: s.

    Returns:
        `<M(l3), M(l1) M(l2)> = factor * clebsch_gordan(*path)`.

    Example:
        >>> round(matrix_factor((0, 0, 0), 1) * 3**0.5, 12)
        1.0
    """
    if not couples(*path):
        return 0.0
    scale = sqrt((2 * path[0] + 1) * (2 * path[1] + 1) * (2 * path[2] + 1))
    # an invariant tensor: the ratio at the largest entry is that of all
    coupling = clebsch_gordan(*path)
    entry = np.unravel_index(np.argmax(np.abs(coupling)), coupling.shape)
    first, second, third = (
        clebsch_gordan(spin, spin, degree)[:, :, m] for degree, m in zip(path, entry, strict=True)
    )
    return float(scale * np.sum(first @ second * third) / coupling[entry])

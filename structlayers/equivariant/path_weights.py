"""Any Clebsch-Gordan product as a sum of signal products: weights by degree from weights by path.

A product of scalar signals has every coupling of even sum and a product of vector signals (offsets
-1) every one of odd sum, each with a fixed factor. Weights of the degrees l1 and l2 that pick one
pair leave those of l3 free: a sum of at most `(L1 + 1)(L2 + 1)` of each has all path weights.
"""

import numpy as np
from numpy.typing import ArrayLike

from structlayers.equivariant.paths import Path, path_scale, tensor_product_paths
from structlayers.equivariant.vector_harmonics import vector_gaunt_factor
from structlayers.equivariant.wigner import gaunt_factor, require_degree

type DegreeWeights = tuple[np.ndarray, np.ndarray, np.ndarray]


def factor_path_weights(
    weights: ArrayLike, lmax1: int, lmax2: int, lmax: int, *, normalization: str = "component"
) -> tuple[DegreeWeights, DegreeWeights]:
    r"""Weights by degree with which signal products add up to a Clebsch-Gordan product.

    .. math:: \mathrm{CG}_w(x, y) = \sum_r \mathrm{Gaunt}_{a_r}(x, y)
        + \sum_s \mathrm{VectorSignal}_{b_s}(x, y)

    Args:
        weights: `(P,)`, in the order of `tensor_product_paths` for degrees 0..L1, 0..L2, 0..lmax.
        lmax1: L1.
        lmax2: L2.
        lmax: largest degree of the product.
        normalization: that of the Clebsch-Gordan product.

    Returns:
        For `gaunt_tensor_product`, and for `vector_signal_tensor_product`: float64 weights
        `(R, L1 + 1)`, `(R, L2 + 1)`, `(R, lmax + 1)`; `R = (L1 + 1)(L2 + 1)` for the former and
        `L1 L2` for the latter.

    Raises:
        ValueError: another number of weights.

    Example:
        >>> gaunt, vector = factor_path_weights(np.ones(15), 2, 2, 2)
        >>> [w.shape for w in gaunt], [w.shape for w in vector]
        ([(9, 3), (9, 3), (9, 3)], [(4, 3), (4, 3), (4, 3)])

    References:
        Sums of vector signal products that have every path: arXiv:2602.21466.
    """
    degrees = [
        range(require_degree(name, value) + 1)
        for name, value in (("lmax1", lmax1), ("lmax2", lmax2), ("lmax", lmax))
    ]
    paths = tensor_product_paths(*degrees)
    values = np.asarray(weights, np.float64)
    if values.shape != (len(paths),):
        raise ValueError(f"weights must have shape ({len(paths)},), got {values.shape}")
    wanted = {
        path: value * path_scale(path, normalization)
        for path, value in zip(paths, values, strict=True)
    }

    def factor(lowest: int, scale: dict[Path, float]) -> DegreeWeights:
        pairs = [(i, j) for i in degrees[0][lowest:] for j in degrees[1][lowest:]]
        sizes = [len(degree) for degree in degrees]
        first, second, third = (np.zeros((len(pairs), size)) for size in sizes)
        for row, (i, j) in enumerate(pairs):
            first[row, i] = second[row, j] = 1
            for k in degrees[2]:
                if (i, j, k) in scale:
                    third[row, k] = wanted[i, j, k] / scale[i, j, k]
        return first, second, third

    even = {path: gaunt_factor(*path) for path in paths if sum(path) % 2 == 0}
    odd = {path: vector_gaunt_factor(path, (-1, -1, -1)) for path in paths if sum(path) % 2}
    return factor(0, even), factor(1, odd)

"""Target matrices of the recovery experiment, in numpy float64 / complex128.

The rows of the heat map of Dao, Gu, Eichhorn, Rudra, Ré, "Learning fast algorithms for linear
transforms using butterfly factorizations", 2019, arXiv:1903.05895, figure 3 and section 4.1, in
the scaling of the code published with it (HazyResearch/butterfly, learning_transforms): unitary
or close to it. A target acts on column vectors, `y = T x`.
"""

from collections.abc import Callable

import numpy as np

from structlayers._core.checks import require_positive, require_power_of_two


def target_matrix(name: str, n: int, seed: int = 0) -> np.ndarray:
    """One target by name.

    Args:
        name: "dft", "inverse_dft", "dct" and "dst" (type II), "hadamard", "hartley",
            "convolution" (circulant of a normal vector), "legendre" (polynomial k at the points m)
            or "randn".
        n: size; a power of two for "hadamard".
        seed: of the random targets, "convolution" and "randn"; the paper's is 0.

    Returns:
        `(n, n)`, complex128 for the Fourier transforms, else float64.

    Raises:
        ValueError: unknown name, or a size that is not positive or does not fit.

    Example:
        >>> target_matrix("hadamard", 4)[3].tolist()
        [0.5, -0.5, -0.5, 0.5]
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {', '.join(map(repr, TARGETS))}, got {name!r}")
    return TARGETS[name](require_positive("n", n), seed)


def _angles(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """2 pi numerators / denominator, reduced to one turn while still integers."""
    return 2 * np.pi * (np.mod(numerators, denominator) / denominator)


def _dft(n: int, seed: int) -> np.ndarray:
    del seed
    index = np.arange(n)
    return np.exp(-1j * _angles(np.outer(index, index), n)) / np.sqrt(n)


def _inverse_dft(n: int, seed: int) -> np.ndarray:
    return _dft(n, seed).conj()


def _dct(n: int, seed: int) -> np.ndarray:
    del seed
    index = np.arange(n)
    return 2 * np.cos(_angles(np.outer(index, 2 * index + 1), 4 * n)) / np.sqrt(n)


def _dst(n: int, seed: int) -> np.ndarray:
    del seed
    index = np.arange(n)
    return 2 * np.sin(_angles(np.outer(index + 1, 2 * index + 1), 4 * n)) / np.sqrt(n)


def _hadamard(n: int, seed: int) -> np.ndarray:
    del seed
    matrix = np.ones((1, 1))
    while matrix.shape[0] < require_power_of_two("n", n):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(n)


def _hartley(n: int, seed: int) -> np.ndarray:
    del seed
    index = np.arange(n)
    angles = _angles(np.outer(index, index), n)
    return (np.cos(angles) + np.sin(angles)) / np.sqrt(n)


def _convolution(n: int, seed: int) -> np.ndarray:
    # the legacy generator: the published figures were made with its numbers
    vector = np.random.RandomState(seed).standard_normal(n)
    index = np.arange(n)
    return vector[index[:, None] - index] / np.sqrt(n)


def _legendre(n: int, seed: int) -> np.ndarray:
    del seed
    points = np.linspace(-1, 1, n + 2)[1:-1]
    return np.polynomial.legendre.legvander(points, n - 1).T / np.sqrt(n)


def _randn(n: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((n, n)) / np.sqrt(n)


TARGETS: dict[str, Callable[[int, int], np.ndarray]] = {
    "dft": _dft,
    "inverse_dft": _inverse_dft,
    "dct": _dct,
    "dst": _dst,
    "convolution": _convolution,
    "hadamard": _hadamard,
    "hartley": _hartley,
    "legendre": _legendre,
    "randn": _randn,
}
"""Target by name, called with size and seed, in the order of the paper's figure."""

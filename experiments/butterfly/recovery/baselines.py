"""What a plain approximation reaches with as many multiplications as a butterfly.

The budget is that of one product with a vector: 2 N log2 N multiplications for BP, twice that for
BPBP. A sparse matrix spends one multiplication an entry, a matrix of rank r spends 2 N r.
"""

import numpy as np
import scipy.linalg


def budget(n: int, blocks: int = 1) -> int:
    """Multiplications of a butterfly product, complex ones if it is complex: 2 n log2 n a block."""
    return 2 * n * (n.bit_length() - 1) * blocks


def sparse_rmse(target: np.ndarray, entries: int) -> float:
    """RMSE ||T - S||_F / n of the best matrix with that many entries: the largest ones are kept."""
    magnitudes = np.sort(np.abs(target).ravel())
    return float(np.sqrt(np.sum(magnitudes[: max(magnitudes.size - entries, 0)] ** 2))) / len(
        target
    )


def low_rank_rmse(target: np.ndarray, multiplications: int) -> float:
    """RMSE of the best matrix of rank multiplications / (2 n), by the singular values."""
    n = len(target)
    singular = np.linalg.svd(target, compute_uv=False)
    return float(np.sqrt(np.sum(singular[multiplications // (2 * n) :] ** 2))) / n


def sparse_plus_low_rank_rmse(target: np.ndarray, multiplications: int, rounds: int = 10) -> float:
    """RMSE of a sparse plus a low-rank matrix, the best split of the budget between the two.

    For ranks r = 1, 2, 4, ... and the largest that the budget allows the two parts are fitted in
    turn, each exactly for the other part given: T - S projected onto its r leading singular
    vectors, the largest (budget - 2 n r) entries of T - L. The error falls in every round, to a
    local minimum.

    Args:
        target: (n, n) real or complex matrix.
        multiplications: budget of both parts together.
        rounds: alternations a rank.
    """
    n = len(target)
    best = sparse_rmse(target, multiplications)
    largest = multiplications // (2 * n)
    for rank in sorted({2**k for k in range(largest.bit_length())} | {largest}) if largest else ():
        entries = multiplications - 2 * n * rank
        sparse, rest = np.zeros_like(target), target
        for _ in range(rounds):
            dense = target - sparse
            # the leading right singular vectors; a whole decomposition costs several times more
            gram = dense.conj().T @ dense
            right = np.asarray(scipy.linalg.eigh(gram, subset_by_index=(n - rank, n - 1))[1])
            rest = target - (dense @ right) @ right.conj().T
            sparse = largest_entries(rest, entries)
        best = min(best, float(np.linalg.norm(rest - sparse)) / n)
    return best


def largest_entries(matrix: np.ndarray, entries: int) -> np.ndarray:
    """The matrix with all but its `entries` largest magnitudes set to 0."""
    if entries <= 0:
        return np.zeros_like(matrix)
    if entries >= matrix.size:
        return matrix.copy()
    flat = np.abs(matrix).ravel()
    kept = np.zeros(matrix.size, bool)
    kept[np.argpartition(flat, -entries)[-entries:]] = True
    return np.where(kept.reshape(matrix.shape), matrix, 0)

"""The definition of a butterfly as nested loops over indices, in NumPy float64, for tests."""

import numpy as np


def factor_matrix(twiddle: np.ndarray, stack: int, block: int, level: int) -> np.ndarray:
    """One factor as a dense matrix, entry by entry."""
    tied = twiddle.ndim == 5
    n = twiddle.shape[2] + 1 if tied else 2 ** twiddle.shape[2]
    s = 2**level
    factor = np.zeros((n, n), np.result_type(twiddle, np.float64))
    for p in range(n // (2 * s)):
        for k in range(s):
            entry = (
                twiddle[stack, block, s - 1 + k]
                if tied
                else twiddle[stack, block, level, p * s + k]
            )
            for i in range(2):
                for j in range(2):
                    factor[p * 2 * s + i * s + k, p * 2 * s + j * s + k] = entry[i, j]
    return factor


def dense_oracle(
    twiddle,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    permutation=None,
    out_features: int | None = None,
) -> np.ndarray:
    """The matrix of `butterfly_multiply`, stacks one below the other."""
    twiddle = np.asarray(twiddle)
    stacks, blocks = twiddle.shape[:2]
    n = twiddle.shape[2] + 1 if twiddle.ndim == 5 else 2 ** twiddle.shape[2]
    levels = n.bit_length() - 1
    rows = []
    for stack in range(stacks):
        matrix = np.eye(n, dtype=np.result_type(twiddle, np.float64))
        for block in range(blocks):
            if permutation is not None:
                order = np.broadcast_to(permutation, (blocks, n))[block]
                matrix = matrix[order]
            increasing = increasing_stride != (alternating and block % 2 == 1)
            for level in range(levels) if increasing else reversed(range(levels)):
                matrix = factor_matrix(twiddle, stack, block, level) @ matrix
        rows.append(matrix)
    return np.concatenate(rows)[:out_features]


def random_twiddle(rng, shape, dtype="float32"):
    """Signed entries with ``E[T^H T] = I``, so that products keep their size."""
    values = rng.standard_normal(shape)
    if np.issubdtype(np.dtype(dtype), np.complexfloating):
        values = (values + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    return (values / np.sqrt(2)).astype(dtype)


def random_array(rng, shape, dtype="float32"):
    """Signed standard normal entries, real or complex."""
    values = rng.standard_normal(shape)
    if np.issubdtype(np.dtype(dtype), np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)

"""Dense matrices to structured ones: nearest where there is a closed form, exact for members."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact, require_positive, require_shape
from structlayers._core.precision import accumulation_dtype


def _check_matrix(matrix: ArrayLike) -> jax.Array:
    matrix = jnp.asarray(matrix)
    require_inexact("matrix", matrix)
    require_shape("matrix", matrix, ("m", "n"))
    if 0 in matrix.shape:
        raise ValueError(f"matrix must have no empty axis, got shape {matrix.shape}")
    return matrix.astype(accumulation_dtype(matrix.dtype))


def _stacks(matrix: jax.Array) -> list[jax.Array]:
    """Row blocks of as many rows as columns; the last may have fewer."""
    size = matrix.shape[1]
    return [matrix[start : start + size] for start in range(0, matrix.shape[0], size)]


def project_to_circulant(matrix: ArrayLike) -> jax.Array:
    """The circulant matrices nearest to a dense one in the Frobenius norm: means of diagonals.

    Args:
        matrix: `(m, n)`; each n of its rows are projected to a matrix of their own.

    Returns:
        First columns `(S, n)`, `S = ceil(m / n)`, for `circulant_multiply`.

    Raises:
        TypeError: integers or bools.
        ValueError: no matrix, or an empty one.

    Example:
        >>> project_to_circulant(jnp.array([[1.0, 2.0], [4.0, 3.0]])).tolist()
        [[2.0, 3.0]]
    """
    matrix = _check_matrix(matrix)
    size = matrix.shape[1]
    columns = []
    for block in _stacks(matrix):
        rows = jnp.arange(len(block))[:, None]
        diagonals = block[rows, (rows - jnp.arange(size)[None, :]) % size]  # row i, diagonal k
        columns.append(jnp.mean(diagonals, axis=0))
    return jnp.stack(columns)


def project_to_toeplitz_like(matrix: ArrayLike, rank: int) -> tuple[jax.Array, jax.Array]:
    """Toeplitz-like matrices from the best rank-r approximation of the displacement.

    `Z_1 M - M Z_-1 = 2 sum_i g_i w_i^T`, `w_i = (-h_1, ..., -h_(N-1), h_0)`. Exact where the rank
    of the left side is at most r (2 for a Toeplitz matrix); elsewhere the displacement is the
    nearest, not the matrix itself.

    Args:
        matrix: `(m, n)`; each n of its rows make a matrix of their own, missing rows being zero.
        rank: r; at most n.

    Returns:
        g and h, `(S, r, n)` each, `S = ceil(m / n)`, for `toeplitz_like_multiply`.

    Raises:
        TypeError: integers or bools.
        ValueError: no matrix, an empty one, or a rank out of range.

    Example:
        >>> from structlayers.structured import toeplitz_like_to_dense
        >>> toeplitz = jnp.array([[1.0, 2.0, 3.0], [4.0, 1.0, 2.0], [5.0, 4.0, 1.0]])
        >>> again = toeplitz_like_to_dense(*project_to_toeplitz_like(toeplitz, 2))
        >>> bool(jnp.allclose(again, toeplitz, atol=1e-5))
        True
    """
    matrix = _check_matrix(matrix)
    size = matrix.shape[1]
    _check_rank(rank, size, "n")
    left, right = [], []
    for block in _stacks(matrix):
        whole = jnp.pad(block, ((0, size - len(block)), (0, 0)))
        moved = jnp.concatenate([whole[:, 1:], -whole[:, :1]], axis=1)
        u, v = _thin_factors(jnp.roll(whole, 1, axis=0) - moved, rank)
        left.append(u.T / 2)
        right.append(jnp.concatenate([v[-1:], -v[:-1]]).T)
    return jnp.stack(left), jnp.stack(right)


def project_to_low_rank(matrix: ArrayLike, rank: int) -> tuple[jax.Array, jax.Array]:
    """The matrix of rank r nearest to a dense one: singular vectors, the values shared evenly.

    Args:
        matrix: `(m, n)`.
        rank: r; at most the smaller of m and n.

    Returns:
        u `(m, r)` and v `(n, r)`, for `low_rank_multiply`.

    Raises:
        TypeError: integers or bools.
        ValueError: no matrix, an empty one, or a rank out of range.

    Example:
        >>> u, v = project_to_low_rank(jnp.array([[3.0, 0.0], [0.0, 1.0]]), 1)
        >>> bool(jnp.allclose(u @ v.T, jnp.array([[3.0, 0.0], [0.0, 0.0]]), atol=1e-6))
        True

    References:
        Eckart, Young, "The approximation of one matrix by another of lower rank", 1936.
    """
    matrix = _check_matrix(matrix)
    return _thin_factors(matrix, _check_rank(rank, min(matrix.shape), "min(m, n)"))


def _check_rank(rank: int, largest: int, name: str) -> int:
    rank = require_positive("rank", rank)
    if rank > largest:
        raise ValueError(f"rank must be at most {name} = {largest}, got {rank}")
    return rank


def _thin_factors(matrix: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """`(m, r)` and `(n, r)` with the best rank-r `u v^T`."""
    u, values, vh = jnp.linalg.svd(matrix, full_matrices=False)
    root = jnp.sqrt(values[:rank]).astype(matrix.dtype)
    return u[:, :rank] * root[None, :], vh[:rank].T * root[None, :]

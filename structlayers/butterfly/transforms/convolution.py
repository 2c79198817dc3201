"""Circulant and Toeplitz matrices: two butterflies with the spectrum in between."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers._core.checks import next_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import bit_reversal_permutation
from structlayers.butterfly.transforms.build import (
    make_operator,
    require_twiddle_dtype,
    transpose_levels,
)
from structlayers.butterfly.transforms.tables import fourier_levels, scale_levels


def circulant(
    vector: ArrayLike, *, tied: bool = False, dtype: DTypeLike = jnp.complex64
) -> ButterflyOperator:
    r"""Circular convolution with a vector, `y_i = sum_j c_{(i - j) mod n} x_j`.

    `F^-1 diag(F c) F`, two blocks. Untied, the first runs with decreasing strides and leaves the
    spectrum in bit-reversed order, where the second takes it up: `B B^T` without a permutation.
    Tied, it is `(B P)^2` with the bit reversal P before each block. A size that is no power of two
    is embedded like a Toeplitz matrix.

    Args:
        vector: c, `(n,)`, the first column; concrete, real or complex.
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128, of the factors; for a real vector the result is real.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`; for a real vector it takes real inputs.

    Raises:
        ValueError: the vector is not one-dimensional, empty, or not finite; a bad `dtype`.

    Example:
        >>> y = circulant(jnp.array([0.0, 1.0, 0.0, 0.0]))(jnp.arange(4.0))
        >>> bool(jnp.allclose(y, jnp.array([3.0, 0.0, 1.0, 2.0]), atol=1e-6))
        True

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning fast algorithms for linear transforms using
        butterfly factorizations", 2019, arXiv:1903.05895, proposition 1.
    """
    column = _require_vector("vector", vector)
    n = column.size
    if n & (n - 1) or n == 1:
        return toeplitz(column, np.roll(column[::-1], 1), tied=tied, dtype=dtype)
    return _convolution(column, n, n, tied, dtype)


def toeplitz(
    column: ArrayLike,
    row: ArrayLike | None = None,
    *,
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Toeplitz matrix by its first column and first row, `T_ij = column_{i-j}` or `row_{j-i}`.

    It is the corner of a circulant matrix of size `N >= m + n - 1`, the next power of two: the
    input is padded with zeros and the result cut.

    Args:
        column: first column, `(m,)`; concrete, real or complex.
        row: first row, `(n,)`, with `row[0] == column[0]`; None is the conjugate of the column
            (a symmetric or Hermitian matrix, as in `scipy.linalg.toeplitz`).
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128, of the factors; for real entries the result is real.

    Returns:
        The operator, `(*B, n)` to `(*B, m)`; for real entries it takes real inputs.

    Raises:
        ValueError: column or row is not one-dimensional, empty, or not finite; their first entries
            differ; a bad `dtype`.

    Example:
        >>> y = toeplitz(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0, 3.0]))(jnp.ones(3))
        >>> bool(jnp.allclose(y, jnp.array([4.0, 3.0]), atol=1e-6))
        True
    """
    column = _require_vector("column", column)
    given = row is not None
    row = column.conj() if row is None else _require_vector("row", row)
    if given and row[0] != column[0]:
        raise ValueError(f"row[0] and column[0] are the same entry, got {row[0]} and {column[0]}")
    m, n = column.size, row.size
    size = max(next_power_of_two(m + n - 1), 2)  # one factor at least, to hold a 1 x 1 matrix
    vector = np.concatenate([column, np.zeros(size - m - n + 1), row[:0:-1]])
    return _convolution(vector, n, m, tied, dtype)


def _convolution(
    vector: np.ndarray, in_features: int, out_features: int, tied: bool, dtype: DTypeLike
) -> ButterflyOperator:
    dtype = require_twiddle_dtype(dtype, complex_values=True)
    n = vector.size
    order = bit_reversal_permutation(n)
    spectrum = np.fft.fft(vector)
    forward = fourier_levels(n)
    backward = scale_levels(fourier_levels(n, sign=1), -float(len(forward)))
    real = not np.iscomplexobj(vector)
    if tied:  # the rows of the last factor are free even when tied
        forward[-1] = forward[-1] * spectrum.reshape(2, -1).T[:, :, None]
        return make_operator(
            [forward, backward],
            dtype=dtype,
            tied=True,
            permutation=order,
            alternating=False,
            in_features=in_features,
            out_features=out_features,
            real_part=real,
        )
    # position 2p + j before the second block is column j of block p of its first factor
    columns = spectrum[order].reshape(-1, 1, 2)
    backward[0] = backward[0] * columns
    return make_operator(
        [transpose_levels(forward), backward],
        dtype=dtype,
        increasing_stride=False,
        in_features=in_features,
        out_features=out_features,
        real_part=real,
    )


def _require_vector(name: str, value: ArrayLike) -> np.ndarray:
    vector = np.asarray(value)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {vector.shape}")
    vector = vector.astype(np.complex128 if np.iscomplexobj(vector) else np.float64)
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} of shape {vector.shape} has NaN or infinite entries")
    return vector

"""Cosine and sine transforms of type II and their inverses, as the real part of a butterfly."""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from structlayers._core.checks import require_choice, require_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import bit_reversal_permutation, inverse_permutation
from structlayers.butterfly.transforms.build import (
    make_operator,
    require_twiddle_dtype,
    scalar_operator,
    transpose_levels,
)
from structlayers.butterfly.transforms.tables import (
    NORMS,
    fourier_levels,
    roots_of_unity,
)


def dct(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    r"""Cosine transform of type II, `y_k = 2 c_k sum_m x_m cos(pi k (2m + 1) / 2n)`.

    With the even entries in front and the odd ones backwards behind them, `v`, it is
    `2 c_k Re(exp(-pi i k / 2n) DFT(v)_k)`: one butterfly after one permutation, real part.

    Args:
        n: size, a power of two.
        norm: c_k = 1 ("backward"), 1/2n ("forward") or what makes it orthogonal ("ortho"), as in
            `scipy.fft`.
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128, of the factors; the result is real.

    Returns:
        The operator, real `(*B, n)` to real `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> [round(float(y), 4) + 0.0 for y in dct(4)(jnp.ones(4))]
        [8.0, 0.0, 0.0, 0.0]

    References:
        Makhoul, "A fast cosine transform in one and two dimensions", 1980.
    """
    return _cosine(n, norm, tied, dtype, inverse=False)


def inverse_dct(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Inverse of `dct` for the same `norm`: a type III cosine transform, `dct` transposed.

    Arguments, result and errors are those of `dct`.

    Example:
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(inverse_dct(8)(dct(8)(x)), x, atol=1e-5))
        True
    """
    return _cosine(n, norm, tied, dtype, inverse=True)


def dst(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    r"""Sine transform of type II, `y_k = 2 c_k sum_m x_m sin(pi (k + 1) (2m + 1) / 2n)`.

    With the even entries in front and the odd ones negated and backwards behind them, `v`, it is
    `2 c_k Re(i exp(-pi i (k + 1) / 2n) DFT(v)_{k+1})`. The sign goes into the first factor, and
    the shift of the frequency by one into the angle of every factor.

    Args:
        n: size, a power of two.
        norm: c_k = 1 ("backward"), 1/2n ("forward") or what makes it orthogonal ("ortho"), as in
            `scipy.fft`.
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128, of the factors; the result is real.

    Returns:
        The operator, real `(*B, n)` to real `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> round(float(dst(2)(jnp.array([1.0, -1.0]))[1]), 4)
        4.0

    References:
        Makhoul, "A fast cosine transform in one and two dimensions", 1980 (the permutation).
    """
    return _sine(n, norm, tied, dtype, inverse=False)


def inverse_dst(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Inverse of `dst` for the same `norm`: a type III sine transform, `dst` transposed.

    Arguments, result and errors are those of `dst`.

    Example:
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(inverse_dst(8)(dst(8)(x)), x, atol=1e-5))
        True
    """
    return _sine(n, norm, tied, dtype, inverse=True)


def _row_scale(n: int, norm: str, special: int, *, inverse: bool) -> np.ndarray:
    """Factors on the rows of plain cosines or sines; row `special` has twice the squared norm."""
    require_choice("norm", norm, NORMS)
    if norm == "ortho":
        scale = np.full(n, math.sqrt(2 / n))
        scale[special] = math.sqrt(1 / n)
        return scale
    if not inverse:
        return np.full(n, 2.0 if norm == "backward" else 1 / n)
    scale = np.full(n, 1 / n if norm == "backward" else 2.0)
    scale[special] /= 2
    return scale


def _cosine(n: int, norm: str, tied: bool, dtype: DTypeLike, *, inverse: bool) -> ButterflyOperator:
    n = require_power_of_two("n", n)
    diagonal = _row_scale(n, norm, 0, inverse=inverse) * roots_of_unity(-np.arange(n), 4 * n)
    return _real_transform(fourier_levels(n), diagonal, tied, dtype, inverse=inverse)


def _sine(n: int, norm: str, tied: bool, dtype: DTypeLike, *, inverse: bool) -> ButterflyOperator:
    n = require_power_of_two("n", n)
    # i exp(-pi i (k + 1) / 2n) = exp(2 pi i (n - 1 - k) / 4n)
    scale = _row_scale(n, norm, n - 1, inverse=inverse)
    diagonal = scale * roots_of_unity(n - 1 - np.arange(n), 4 * n)
    levels = fourier_levels(n, shift=1)
    if levels:  # after bit reversal the second half of v is the odd positions, column 1
        levels[0] = levels[0] * np.array([1.0, -1.0])
    return _real_transform(levels, diagonal, tied, dtype, inverse=inverse)


def _real_transform(
    levels: list[np.ndarray], diagonal: np.ndarray, tied: bool, dtype: DTypeLike, *, inverse: bool
) -> ButterflyOperator:
    """Re(diagonal B P) or its transpose, P being bit reversal of evens and backward odds."""
    dtype = require_twiddle_dtype(dtype, complex_values=True)
    n = diagonal.size
    if n == 1:
        return scalar_operator(diagonal[0], dtype=dtype, tied=tied, real_part=True)
    # rows k and n/2 + k of the last factor are the two rows of its block k
    levels = [*levels[:-1], levels[-1] * diagonal.reshape(2, -1).T[:, :, None]]
    even_odd = np.concatenate([np.arange(0, n, 2), np.arange(n - 1, 0, -2)])
    order = even_odd[bit_reversal_permutation(n)]
    if inverse:
        return make_operator(
            [transpose_levels(levels)],
            dtype=dtype,
            tied=tied,
            output_permutation=inverse_permutation(order),
            increasing_stride=False,
            real_part=True,
        )
    return make_operator([levels], dtype=dtype, tied=tied, permutation=order, real_part=True)

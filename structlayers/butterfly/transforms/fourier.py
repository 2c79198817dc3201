"""Discrete Fourier transforms, one- and two-dimensional, and the Hartley transform."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from structlayers._core.checks import require_choice, require_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import bit_reversal_permutation
from structlayers.butterfly.transforms.build import make_operator, require_twiddle_dtype
from structlayers.butterfly.transforms.tables import (
    NORMS,
    fourier_levels,
    log2_norm,
    scale_levels,
)


def dft(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    r"""Discrete Fourier transform, `y_k = c sum_m x_m exp(-2 pi i k m / n)`, as `B P`.

    P is the bit reversal and B the radix-2 decimation-in-time algorithm of Cooley and Tukey: its
    factor of stride s is `[[1, w^k], [1, -w^k]]`, `w = exp(-pi i / s)`.

    Args:
        n: size, a power of two.
        norm: c = 1 ("backward"), 1/sqrt(n) ("ortho") or 1/n ("forward"), as in `numpy.fft`. The
            halves are spread over the factors, a square root of 1/2 goes to the first.
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> operator = dft(8)
        >>> bool(jnp.allclose(operator(jnp.arange(8.0)), jnp.fft.fft(jnp.arange(8.0)), atol=1e-5))
        True

    References:
        Cooley, Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965.
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning fast algorithms for linear transforms using
        butterfly factorizations", 2019, arXiv:1903.05895, section 3.1.
    """
    return _fourier((n,), norm, tied, dtype, inverse=False)


def inverse_dft(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    r"""Inverse of `dft` for the same `norm`: `x_m = c sum_k y_k exp(2 pi i k m / n)`.

    Args:
        n: size, a power of two.
        norm: c = 1/n ("backward"), 1/sqrt(n) ("ortho") or 1 ("forward").
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(inverse_dft(8)(dft(8)(x)).real, x, atol=1e-5))
        True
    """
    return _fourier((n,), norm, tied, dtype, inverse=True)


def dft2(
    n1: int,
    n2: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Two-dimensional DFT of `(n1, n2)` arrays flattened row by row, again one butterfly `B P`.

    The strides below n2 transform the columns' index, those from n2 on the rows' index; P reverses
    the bits of both indices separately.

    Args:
        n1: number of rows, a power of two.
        n2: number of columns, a power of two.
        norm: as in `dft`, for n = n1 n2.
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128.

    Returns:
        The operator, `(*B, n1*n2)` to `(*B, n1*n2)`.

    Raises:
        ValueError: n1 or n2 is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> x = jnp.arange(8.0).reshape(2, 4)
        >>> y = dft2(2, 4)(x.reshape(8)).reshape(2, 4)
        >>> bool(jnp.allclose(y, jnp.fft.fft2(x), atol=1e-5))
        True
    """
    return _fourier((n1, n2), norm, tied, dtype, inverse=False)


def inverse_dft2(
    n1: int,
    n2: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Inverse of `dft2` for the same `norm`; arguments, result and errors are the same.

    Example:
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(inverse_dft2(4, 2)(dft2(4, 2)(x)).real, x, atol=1e-5))
        True
    """
    return _fourier((n1, n2), norm, tied, dtype, inverse=True)


def hartley(
    n: int,
    *,
    norm: str = "backward",
    tied: bool = False,
    dtype: DTypeLike = jnp.complex64,
) -> ButterflyOperator:
    """Discrete Hartley transform, `y_k = c sum_m x_m (cos + sin)(2 pi k m / n)`.

    It is the real part of (1 + i) times the DFT: cos a + sin a = Re (1 + i) exp(-i a). Up to n it
    is its own inverse; "backward" and "forward" invert each other, "ortho" itself.

    Args:
        n: size, a power of two.
        norm: c = 1 ("backward"), 1/sqrt(n) ("ortho") or 1/n ("forward").
        tied: whether the copies of a factor share one set of blocks.
        dtype: complex64 or complex128, of the factors; the result is real.

    Returns:
        The operator, real `(*B, n)` to real `(*B, n)`.

    Raises:
        ValueError: n is not a power of two, or a bad `norm` or `dtype`.

    Example:
        >>> x = jnp.arange(4.0)
        >>> y = hartley(4, norm="ortho")(x)
        >>> bool(jnp.allclose(hartley(4, norm="ortho")(y), x, atol=1e-6))
        True

    References:
        Bracewell, "Discrete Hartley transform", 1983.
    """
    n = require_power_of_two("n", n)
    dtype = require_twiddle_dtype(dtype, complex_values=True)
    levels = fourier_levels(n)
    scale = log2_norm(len(levels), require_choice("norm", norm, NORMS), inverse=False)
    levels = scale_levels(levels, scale)
    if levels:  # (1 + i) times the first factor, whose entries are 1 and -1: exact
        levels[0] = (1 + 1j) * levels[0]
    return make_operator(
        [levels], dtype=dtype, tied=tied, permutation=bit_reversal_permutation(n), real_part=True
    )


def _fourier(
    shape: tuple[int, ...], norm: str, tied: bool, dtype: DTypeLike, *, inverse: bool
) -> ButterflyOperator:
    sizes = [shape[0]] if len(shape) == 1 else list(shape)
    names = ("n",) if len(shape) == 1 else ("n1", "n2")
    for name, size in zip(names, shape, strict=True):
        require_power_of_two(name, size)
    dtype = require_twiddle_dtype(dtype, complex_values=True)
    levels: list[np.ndarray] = []
    order = np.zeros(1, np.int64)
    inner = 1
    for size in reversed(sizes):  # the last axis has the small strides
        # one copy of the axis's factor for every inner index: block k = k_axis * inner + k_inner
        axis_levels = fourier_levels(size, sign=1 if inverse else -1)
        levels += [np.repeat(level, inner, axis=0) for level in axis_levels]
        order = (inner * bit_reversal_permutation(size)[:, None] + order).reshape(-1)
        inner *= size
    scale = log2_norm(len(levels), require_choice("norm", norm, NORMS), inverse=inverse)
    levels = scale_levels(levels, scale)
    return make_operator([levels], dtype=dtype, tied=tied, permutation=order)

"""The orthonormal Haar wavelet transform."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from structlayers._core.checks import require_integer, require_power_of_two
from structlayers.butterfly.operator import ButterflyOperator
from structlayers.butterfly.permutations import inverse_permutation
from structlayers.butterfly.transforms.build import (
    make_operator,
    require_twiddle_dtype,
    transpose_levels,
)


def haar_wavelet(
    n: int,
    *,
    levels: int | None = None,
    tied: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> ButterflyOperator:
    r"""Orthonormal Haar wavelet decomposition.

    A level replaces the averages `a` so far by `(a_2i + a_2i+1) / sqrt 2` and the details
    `(a_2i - a_2i+1) / sqrt 2`. In place, the averages before level l sit 2**l apart: the factor of
    stride s = 2**l is `[[1, 1], [1, -1]] / sqrt 2` in block 0 and the identity in the others.

    Args:
        n: size, a power of two.
        levels: depth of the decomposition, 0 .. log2(n); None is log2(n).
        tied: whether the copies of a factor share one set of blocks.
        dtype: real or complex floating point.

    Returns:
        The operator, `(*B, n)` to `(*B, n)`: the `n / 2**levels` averages, then the details, the
        coarsest first.

    Raises:
        ValueError: n is not a power of two, or bad `levels` or `dtype`.

    Example:
        >>> [round(float(y), 4) for y in haar_wavelet(4)(jnp.array([3.0, 1.0, 1.0, 1.0]))]
        [3.0, 1.0, 1.4142, 0.0]

    References:
        Haar, "Zur Theorie der orthogonalen Funktionensysteme", 1910.
        Mallat, "A wavelet tour of signal processing", 2009, section 7.3.1.
    """
    factors, order = _haar_factors(n, levels)
    dtype = require_twiddle_dtype(dtype, complex_values=False)
    return make_operator([factors], dtype=dtype, tied=tied, output_permutation=order)


def inverse_haar_wavelet(
    n: int,
    *,
    levels: int | None = None,
    tied: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> ButterflyOperator:
    """Inverse (and transpose) of `haar_wavelet`; arguments and errors are the same.

    Example:
        >>> x = jnp.arange(8.0)
        >>> bool(jnp.allclose(inverse_haar_wavelet(8)(haar_wavelet(8)(x)), x, atol=1e-5))
        True
    """
    factors, order = _haar_factors(n, levels)
    dtype = require_twiddle_dtype(dtype, complex_values=False)
    return make_operator(
        [transpose_levels(factors)],
        dtype=dtype,
        tied=tied,
        permutation=inverse_permutation(order),
        increasing_stride=False,
    )


def _haar_factors(n: int, depth: int | None) -> tuple[list[np.ndarray], np.ndarray]:
    n = require_power_of_two("n", n)
    count = n.bit_length() - 1
    depth = count if depth is None else require_integer("levels", depth)
    if not 0 <= depth <= count:
        raise ValueError(f"levels must be between 0 and log2(n) = {count}, got {depth}")
    factors = []
    for level in range(count):
        factor = np.tile(np.eye(2), (2**level, 1, 1))
        if level < depth:
            factor[0] = np.sqrt(0.5) * np.array([[1.0, 1.0], [1.0, -1.0]])
        factors.append(factor)
    # detail p of level l has stayed at p*2s + s; the averages are at the multiples of 2**depth
    details = [np.arange(2**level, n, 2 ** (level + 1)) for level in reversed(range(depth))]
    return factors, np.concatenate([np.arange(0, n, 2**depth), *details])

"""Products by the fast Fourier transform: circulant and Toeplitz-like matrices.

Transforms run in float32 or wider, whatever the dtype of the data: there is none of half precision.
"""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.operands import pad_features
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.structured.xla.matrices import (
    apply_matrix,
    circulant_matrix,
    join_stacks,
    toeplitz_like_matrix,
)


def _spectrum(values: jax.Array) -> jax.Array:
    """The transform of the last axis; of real values the half that is not redundant."""
    return jnp.fft.fft(values) if jnp.iscomplexobj(values) else jnp.fft.rfft(values)


def _signal(spectrum: jax.Array, size: int, real: bool) -> jax.Array:
    """The inverse of `_spectrum`."""
    return jnp.fft.irfft(spectrum, size) if real else jnp.fft.ifft(spectrum)


def _lead(weights: jax.Array, ndim: int) -> jax.Array:
    """Axes of length one in front, up to `ndim`."""
    return weights.reshape((1,) * (ndim - weights.ndim) + weights.shape)


def circulant_multiply(
    x: jax.Array, c: jax.Array, *, out_features: int | None = None, precision: PrecisionLike = None
) -> jax.Array:
    """`F^-1 diag(F c) F x`: one transform of the data, one inverse for each stack.

    Args:
        x: `(*B, n)`, n at most N.
        c: `(S, N)`.
        out_features: number of outputs kept.
        precision: not used: there is no matrix product.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    del precision
    dtype, size = x.dtype, c.shape[-1]
    wide = accumulation_dtype(dtype)
    data = _spectrum(pad_features(x.astype(wide), size))[..., None, :]  # *B 1 F
    weights = _spectrum(c.astype(wide))
    y = _signal(data * _lead(weights, data.ndim), size, not jnp.iscomplexobj(x))
    return join_stacks(y, out_features).astype(dtype)


def circulant_multiply_dense(
    x: jax.Array, c: jax.Array, *, out_features: int | None = None, precision: PrecisionLike = None
) -> jax.Array:
    """One product with the whole matrix; arguments and result as in `circulant_multiply`."""
    return apply_matrix(x, circulant_matrix(c), out_features, canonicalize_precision(precision))


def toeplitz_like_multiply(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`sum_i C(g_i) S(h_i)^T x` with r + 1 transforms of the data, and r + 1 inverse ones a stack.

    The skew-circulant `S(h)` is `conj(d) C(d h) d` with the diagonal `d_k = exp(i pi k / N)`, its
    transpose `d C(d h)^T conj(d)`; a transposed circulant has the spectrum `N F^-1 v` for `F v`.

    Args:
        x: `(*B, n)`, n at most N.
        g: `(S, r, N)`.
        h: `(S, r, N)`.
        out_features: number of outputs kept.
        precision: not used: there is no matrix product.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    del precision
    dtype, size = x.dtype, g.shape[-1]
    wide = accumulation_dtype(dtype)
    real = not jnp.iscomplexobj(x)
    x, g, h = pad_features(x.astype(wide), size), g.astype(wide), h.astype(wide)
    half_turn = np.exp(1j * np.pi * np.arange(size) / size)
    turn = jnp.asarray(half_turn, np.promote_types(wide, np.complex64))
    data = x.astype(turn.dtype) * _lead(turn.conj(), x.ndim)
    data = jnp.fft.fft(data)[..., None, None, :]  # *B 1 1 N
    weights = size * jnp.fft.ifft(h.astype(turn.dtype) * _lead(turn, h.ndim))  # S r N
    z = jnp.fft.ifft(data * _lead(weights, data.ndim))
    z = z * _lead(turn, z.ndim)  # *B S r N
    spectra = _spectrum(z.real if real else z)
    y = jnp.sum(spectra * _lead(_spectrum(g), spectra.ndim), axis=-2)
    return join_stacks(_signal(y, size, real), out_features).astype(dtype)


def toeplitz_like_multiply_dense(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """One product with the whole matrix; arguments and result as in `toeplitz_like_multiply`."""
    matrix = toeplitz_like_matrix(g, h)
    return apply_matrix(x, matrix, out_features, canonicalize_precision(precision))

"""Initializers of twiddles, called as ``init(key, shape, dtype)`` like those of `jax.nn`.

Each draws independent 2x2 blocks ``T`` over the leading axes with ``E[T^H T] = I`` exactly or in
the mean, so that a butterfly keeps the second moment of its input, whatever its depth.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from structlayers._core.precision import accumulation_dtype
from structlayers.butterfly.parametrizations import rotation_twiddle, unitary_twiddle

__all__ = ["gaussian", "identity", "orthogonal"]


def _twiddle_dtype(shape: Sequence[int], dtype: DTypeLike) -> jnp.dtype:
    if len(shape) < 2 or tuple(shape[-2:]) != (2, 2):
        raise ValueError(f"shape must end in (2, 2), got {tuple(shape)}")
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"dtype must be floating point or complex, got {dtype}")
    return dtype


def gaussian(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Independent normal entries of variance 1/2, the initialization of the paper.

    Real: ``N(0, 1/2)``. Complex: real and imaginary part each of variance 1/4, standard
    deviation 1/2. Either way ``E[T^H T] = I``.

    Args:
        key: Random key.
        shape: Shape ending in ``(2, 2)``.
        dtype: Real or complex floating dtype.

    Returns:
        Array of that shape and dtype.

    Raises:
        TypeError: If the dtype is not floating point or complex.
        ValueError: If the shape does not end in ``(2, 2)``.

    Example:
        >>> gaussian(jax.random.key(0), (1, 1, 3, 4, 2, 2)).shape
        (1, 1, 3, 4, 2, 2)

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, section 3.2.
    """
    dtype = _twiddle_dtype(shape, dtype)
    return jax.random.normal(key, tuple(shape), dtype) * jnp.sqrt(0.5).astype(dtype)


def orthogonal(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Blocks drawn from the Haar measure of O(2), or of U(2) for a complex dtype.

    O(2): angle uniform in ``[0, 2 pi)``, rotation or reflection with probability 1/2 each.
    U(2): ``T = exp(i a) [[exp(i b) cos f, exp(i c) sin f], [-exp(-i c) sin f, exp(-i b) cos f]]``
    with ``a, b, c`` uniform in ``[0, 2 pi)`` and ``f = arcsin(sqrt(u))``, ``u`` uniform in [0, 1).

    Args:
        key: Random key.
        shape: Shape ending in ``(2, 2)``.
        dtype: Real or complex floating dtype.

    Returns:
        Array of that shape and dtype; every 2x2 block is orthogonal or unitary to rounding.

    Raises:
        TypeError: If the dtype is not floating point or complex.
        ValueError: If the shape does not end in ``(2, 2)``.

    Example:
        >>> t = orthogonal(jax.random.key(0), (5, 2, 2))
        >>> bool(jnp.allclose(jnp.einsum("bji,bjk->bik", t, t), jnp.eye(2)[None], atol=1e-6))
        True

    References:
        Dao et al., github.com/HazyResearch/butterfly (initialization "ortho"). The Haar measure
        of U(2) in these angles: Zyczkowski, Kus, "Random unitary matrices", 1994, J. Phys. A 27.
    """
    dtype = _twiddle_dtype(shape, dtype)
    lead = tuple(shape[:-2])
    real = jnp.finfo(dtype).dtype
    # half-precision angles would be coarse; the draws are float32 at least
    draw = accumulation_dtype(real)
    key_angles, key_kind = jax.random.split(key)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        angles = jax.random.uniform(key_angles, (*lead, 3), draw, maxval=2 * jnp.pi)
        mix = jnp.arcsin(jnp.sqrt(jax.random.uniform(key_kind, lead, draw)))[..., None]
        blocks = unitary_twiddle(jnp.concatenate([mix, angles], axis=-1))
    else:
        angles = jax.random.uniform(key_angles, lead, draw, maxval=2 * jnp.pi)
        blocks = rotation_twiddle(angles, jax.random.bernoulli(key_kind, shape=lead))
    return blocks.astype(dtype)


def identity(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Every block the 2x2 identity, so that the butterfly is the identity.

    Args:
        key: Not used; there so that all initializers are called alike.
        shape: Shape ending in ``(2, 2)``.
        dtype: Real or complex floating dtype.

    Returns:
        Array of that shape and dtype.

    Raises:
        TypeError: If the dtype is not floating point or complex.
        ValueError: If the shape does not end in ``(2, 2)``.

    Example:
        >>> identity(jax.random.key(0), (1, 2, 2)).tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """
    del key
    dtype = _twiddle_dtype(shape, dtype)
    return jnp.broadcast_to(
        jnp.eye(2, dtype=dtype).reshape((1,) * (len(shape) - 2) + (2, 2)), shape
    )

"""Permutations: bit reversal, the paper's building blocks, and the learned relaxation.

Convention everywhere: a permutation is an index array ``p`` of shape ``(n,)`` and acts by
``(P x)[i] = x[p[i]]``, so that ``q`` after ``p`` is ``p[q]``.

The learned permutation of Dao et al. works on sizes ``N, N/2, ..., 4``. At size ``m`` every run of
``m`` neighbours passes three choices, each a lerp between doing it and leaving it:
a separates even from odd positions, b reverses the first half, c reverses the second half:
``P_m = ((1-p_c) I + p_c C) ((1-p_b) I + p_b B) ((1-p_a) I + p_a A)`` with ``p = sigmoid(logit)``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import (
    is_known,
    is_power_of_two,
    require_positive,
    require_power_of_two,
    require_real,
)

__all__ = [
    "apply_permutation",
    "bit_reversal_permutation",
    "even_odd_permutation",
    "inverse_permutation",
    "is_permutation",
    "permutation_logits_shape",
    "reverse_half_permutation",
    "round_permutation",
    "soft_permutation",
    "soft_permutation_factor",
]


def bit_reversal_permutation(n: int) -> np.ndarray:
    """Index array that reverses the ``log2 n`` bits of every index; its own inverse.

    Args:
        n: Length, a power of two.

    Returns:
        int32 array ``(n,)``.

    Raises:
        ValueError: If ``n`` is not a power of two.

    Example:
        >>> bit_reversal_permutation(8).tolist()
        [0, 4, 2, 6, 1, 5, 3, 7]
    """
    levels = require_power_of_two("n", n).bit_length() - 1
    indices = np.zeros(1, np.int32)
    for _ in range(levels):
        indices = np.concatenate([2 * indices, 2 * indices + 1])
    return indices


def even_odd_permutation(n: int) -> np.ndarray:
    """Index array that puts the even positions before the odd ones (choice a).

    Args:
        n: Length, even or 1.

    Returns:
        int32 array ``(n,)``.

    Raises:
        ValueError: If ``n`` is odd and above 1.

    Example:
        >>> even_odd_permutation(6).tolist()
        [0, 2, 4, 1, 3, 5]
    """
    indices = np.arange(_require_halves(n), dtype=np.int32)
    return np.concatenate([indices[0::2], indices[1::2]])


def reverse_half_permutation(n: int, half: int) -> np.ndarray:
    """Index array that reverses the first half (choice b) or the second half (choice c).

    Args:
        n: Length, even or 1.
        half: 0 for the first half, 1 for the second.

    Returns:
        int32 array ``(n,)``.

    Raises:
        ValueError: If ``n`` is odd and above 1, or ``half`` is neither 0 nor 1.

    Example:
        >>> reverse_half_permutation(6, 1).tolist()
        [0, 1, 2, 5, 4, 3]
    """
    n = _require_halves(n)
    if half not in (0, 1):
        raise ValueError(f"half must be 0 or 1, got {half!r}")
    indices = np.arange(n, dtype=np.int32)
    start = half * (n // 2)
    indices[start : start + n // 2] = indices[start : start + n // 2][::-1]
    return indices


def _require_halves(n: int) -> int:
    n = require_positive("n", n)
    if n > 1 and n % 2:
        raise ValueError(f"n must be even, or 1, to have two halves; got {n}")
    return n


def is_permutation(indices: ArrayLike) -> bool:
    """Whether a concrete array holds each of ``0 .. n-1`` once along its last axis.

    Args:
        indices: Array ``(*B, n)``.

    Returns:
        True if every row is a permutation.

    Example:
        >>> is_permutation(np.array([2, 0, 1])), is_permutation(np.array([2, 0, 2]))
        (True, False)
    """
    indices = np.asarray(indices)
    if indices.ndim < 1 or not np.issubdtype(indices.dtype, np.integer):
        return False
    return bool((np.sort(indices, axis=-1) == np.arange(indices.shape[-1])).all())


def inverse_permutation(permutation: ArrayLike) -> Any:
    """Index array of the inverse: ``inverse[permutation[i]] = i``, along the last axis.

    Args:
        permutation: Integer array ``(*B, n)``; a NumPy array gives a NumPy array.

    Returns:
        Array of the same shape and dtype.

    Raises:
        TypeError: If the dtype is not an integer.
        ValueError: If it is concrete and not a permutation.

    Example:
        >>> inverse_permutation(np.array([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    require_permutation("permutation", permutation)
    if isinstance(permutation, np.ndarray):
        return np.argsort(permutation, axis=-1).astype(permutation.dtype)
    permutation = jnp.asarray(permutation)
    return jnp.argsort(permutation, axis=-1).astype(permutation.dtype)


def require_permutation(name: str, permutation: ArrayLike, n: int | None = None) -> None:
    """Checks dtype and length, and the values where they are known (not under a trace).

    Raises:
        TypeError: If the dtype is not an integer.
        ValueError: If the last axis is not ``n`` long, or the values are no permutation.
    """
    array = np.asarray(permutation) if isinstance(permutation, list | tuple) else permutation
    shape, dtype = np.shape(array), jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{name} must hold integers, got dtype {dtype}")
    if not shape or (n is not None and shape[-1] != n):
        wanted = "at least one axis" if n is None else f"a last axis of {n}"
        raise ValueError(f"{name} must have {wanted}, got shape {shape}")
    if is_known(array) and not is_permutation(array):
        raise ValueError(
            f"{name} must hold each of 0 .. {shape[-1] - 1} once, got {np.asarray(array)}"
        )


def apply_permutation(x: ArrayLike, permutation: ArrayLike, axis: int = -1) -> jax.Array:
    """``out[..., i] = x[..., permutation[i]]`` along one axis.

    A permutation known at trace time that only moves the bits of the index, such as bit
    reversal, becomes a transpose: its derivative is then a transpose too, not a scatter.

    Args:
        x: Array with ``n`` entries along ``axis``.
        permutation: Integer array ``(n,)``.
        axis: The axis to permute.

    Returns:
        Array of the shape and dtype of ``x``.

    Raises:
        TypeError: If the permutation does not hold integers.
        ValueError: If it is no permutation of ``n``.

    Example:
        >>> apply_permutation(jnp.array([10, 20, 30]), np.array([2, 0, 1])).tolist()
        [30, 10, 20]
    """
    x = jnp.asarray(x)
    axis = axis % x.ndim
    n = x.shape[axis]
    require_permutation("permutation", permutation, n)
    if isinstance(permutation, np.ndarray):
        bits = _moved_bits(permutation)
        if bits is not None:
            before, after = x.shape[:axis], x.shape[axis + 1 :]
            order = (
                *range(axis),
                *(axis + bit for bit in bits),
                *range(axis + len(bits), x.ndim - 1 + len(bits)),
            )
            x = x.reshape(*before, *(2,) * len(bits), *after).transpose(order)
            return x.reshape(*before, n, *after)
    return jnp.take(x, jnp.asarray(permutation), axis=axis, mode="clip", unique_indices=True)


def _moved_bits(permutation: np.ndarray) -> list[int] | None:
    """Axes of the transpose that equals the permutation, bits as axes from the highest; or None."""
    n = permutation.shape[0]
    if permutation.ndim != 1 or not is_power_of_two(n):
        return None
    levels = n.bit_length() - 1
    images = [int(permutation[1 << bit]) for bit in range(levels)]
    if any(not is_power_of_two(image) for image in images):
        return None
    index = np.arange(n)
    expected = np.zeros(n, np.int64)
    for bit, image in enumerate(images):
        expected += (index >> bit & 1) * image
    if not np.array_equal(expected, permutation):
        return None
    # output bit `bit` is input bit log2(image)
    return [levels - image.bit_length() for image in reversed(images)]


def permutation_logits_shape(n: int, *, shared: bool = False) -> tuple[int, int]:
    """Shape of the logits of a learned permutation of ``n``.

    Args:
        n: Length, a power of two.
        shared: Whether all levels use the same three logits.

    Returns:
        ``(1, 3)`` if shared, else ``(levels, 3)`` with ``levels = max(log2 n - 1, 0)``.

    Raises:
        ValueError: If ``n`` is not a power of two.

    Example:
        >>> permutation_logits_shape(16), permutation_logits_shape(16, shared=True)
        ((3, 3), (1, 3))
    """
    levels = max(require_power_of_two("n", n).bit_length() - 2, 0)
    return (1, 3) if shared else (levels, 3)


def _level_logits(logits: ArrayLike, n: int) -> tuple[jax.Array, int]:
    """Checks the logits of a permutation of ``n``; returns them and the number of levels."""
    logits = jnp.asarray(logits)
    require_real("logits", logits)
    levels = permutation_logits_shape(n)[0]
    if logits.shape not in ((1, 3), (levels, 3)):
        raise ValueError(
            f"logits must have shape (1, 3), shared, or ({levels}, 3) for n = {n}, "
            f"got {logits.shape}"
        )
    return logits, levels


def _interpolate(x: jax.Array, probabilities: jax.Array, size: int) -> jax.Array:
    """Passes every run of ``size`` along the last axis through the choices a, b, c."""
    shape = x.shape
    a, b, c = probabilities
    runs = x.reshape(*shape[:-1], shape[-1] // size, size // 2, 2)
    separated = jnp.swapaxes(runs, -1, -2)  # ... runs, 2, size/2
    kept = runs.reshape(separated.shape)
    halves = kept + a * (separated - kept)
    reverse = jnp.stack([b, c]).reshape((1,) * (halves.ndim - 2) + (2, 1))
    return (halves + reverse * (halves[..., ::-1] - halves)).reshape(shape)


def soft_permutation(x: ArrayLike, logits: ArrayLike) -> jax.Array:
    """The relaxed permutation of Dao et al. applied along the last axis.

    ``out = P_4 ... P_{N/2} P_N x``; see the module docstring for ``P_m``. Doubly stochastic for
    any logits, and a permutation in the limit of large ones. ``O(N)`` work for each of the
    ``log2 N - 1`` levels.

    Args:
        x: Real or complex array ``(*B, N)``, N a power of two.
        logits: Real array ``(log2 N - 1, 3)``, or ``(1, 3)`` shared by all levels; row ``l`` holds
            the choices a, b, c of size ``N / 2**l``.

    Returns:
        Array ``(*B, N)`` of the dtype of ``x``.

    Raises:
        TypeError: If ``x`` holds integers or ``logits`` are not real.
        ValueError: If N is not a power of two or the logits have another shape.

    Example:
        >>> soft_permutation(jnp.arange(4.0), jnp.array([[50.0, -50.0, 50.0]])).round().tolist()
        [0.0, 2.0, 3.0, 1.0]

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, section 3.2.
    """
    x = _require_points(x)
    n = x.shape[-1]
    logits, levels = _level_logits(logits, n)
    probabilities = jax.nn.sigmoid(logits).astype(x.dtype)
    for level in range(levels):
        row = probabilities[level if logits.shape[0] > 1 else 0]
        x = _interpolate(x, row, n >> level)
    return x


def soft_permutation_factor(x: ArrayLike, logits: ArrayLike) -> jax.Array:
    """One relaxed factor ``P_N`` over the whole last axis: the extra P of a "BPP" product.

    Args:
        x: Real or complex array ``(*B, N)``, N even.
        logits: Real array ``(3,)``: the choices a, b, c.

    Returns:
        Array ``(*B, N)`` of the dtype of ``x``.

    Raises:
        TypeError: If ``x`` holds integers or ``logits`` are not real.
        ValueError: If N is odd or the logits have another shape.

    Example:
        >>> logits = jnp.array([50.0, -50.0, 50.0])
        >>> soft_permutation_factor(jnp.arange(4.0), logits).round().tolist()
        [0.0, 2.0, 3.0, 1.0]

    References:
        Dao et al., 2019, arXiv:1903.05895, section 4.1 (DCT and DST use one more permutation).
    """
    x = _require_points(x)
    logits = jnp.asarray(logits)
    require_real("logits", logits)
    if logits.shape != (3,):
        raise ValueError(f"logits must have shape (3,), got {logits.shape}")
    n = _require_halves(x.shape[-1])
    if n == 1:
        return x
    return _interpolate(x, jax.nn.sigmoid(logits).astype(x.dtype), n)


def _require_points(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"x must be a floating-point or complex array with at least one axis, "
            f"got {x.dtype} of shape {x.shape}"
        )
    return x


def round_permutation(logits: ArrayLike, n: int) -> jax.Array:
    """The hard permutation nearest to a relaxed one: every choice taken if its logit is positive.

    ``x[..., round_permutation(logits, n)]`` is the limit of ``soft_permutation(x, t * logits)``
    for growing ``t``. Works under jit and vmap.

    Args:
        logits: Real array ``(log2 n - 1, 3)``, or ``(1, 3)`` shared by all levels.
        n: Length, a power of two.

    Returns:
        int32 array ``(n,)``.

    Raises:
        TypeError: If ``logits`` are not real.
        ValueError: If ``n`` is not a power of two or the logits have another shape.

    Example:
        >>> round_permutation(jnp.array([[5.0, -5.0, -5.0]]), 8).tolist()
        [0, 4, 2, 6, 1, 5, 3, 7]

    References:
        Dao et al., 2019, arXiv:1903.05895, section 3.2.
    """
    logits, levels = _level_logits(logits, require_power_of_two("n", n))
    indices = jnp.arange(n, dtype=jnp.int32)
    for level in range(levels):
        a, b, c = logits[level if logits.shape[0] > 1 else 0] > 0
        runs = indices.reshape(2**level, -1)
        half = runs.shape[1] // 2
        runs = jnp.where(a, jnp.concatenate([runs[:, 0::2], runs[:, 1::2]], axis=1), runs)
        first, second = runs[:, :half], runs[:, half:]
        first = jnp.where(b, first[:, ::-1], first)
        second = jnp.where(c, second[:, ::-1], second)
        indices = jnp.concatenate([first, second], axis=1).reshape(n)
    return indices

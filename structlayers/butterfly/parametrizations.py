"""Orthogonal and unitary 2x2 blocks from unconstrained angles, and back.

A butterfly of orthogonal (unitary) blocks is orthogonal (unitary), and so is any product of such
butterflies with permutations. The angles can take any real value, so plain gradient descent keeps
the constraint exactly, up to rounding.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact, require_real
from structlayers._core.precision import accumulation_dtype

__all__ = ["rotation_angles", "rotation_twiddle", "unitary_angles", "unitary_twiddle"]


def _stack_block(t00: jax.Array, t01: jax.Array, t10: jax.Array, t11: jax.Array) -> jax.Array:
    return jnp.stack([jnp.stack([t00, t01], axis=-1), jnp.stack([t10, t11], axis=-1)], axis=-2)


def rotation_twiddle(angles: ArrayLike, reflection: ArrayLike | None = None) -> jax.Array:
    """Orthogonal blocks: rotations ``[[c, -s], [s, c]]``, or reflections ``[[c, s], [s, -c]]``.

    Args:
        angles: Real array ``(*shape,)`` in radians, any range; for a twiddle, its shape without
            the last two axes.
        reflection: Boolean array broadcastable to ``angles`` at equal rank: where true the block
            has determinant -1. None: rotations only.

    Returns:
        Real array ``(*shape, 2, 2)``.

    Raises:
        TypeError: If ``angles`` is not real or ``reflection`` not boolean.

    Example:
        >>> rotation_twiddle(jnp.array([0.0]))[0].tolist()
        [[1.0, -0.0], [0.0, 1.0]]

    References:
        Dao et al., github.com/HazyResearch/butterfly (parametrization "ortho").
    """
    angles = jnp.asarray(angles)
    require_real("angles", angles)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if reflection is None:
        return _stack_block(cos, -sin, sin, cos)
    reflection = jnp.asarray(reflection)
    if reflection.dtype != jnp.bool_:
        raise TypeError(f"reflection must be boolean, got {reflection.dtype}")
    return _stack_block(
        cos, jnp.where(reflection, sin, -sin), sin, jnp.where(reflection, -cos, cos)
    )


def rotation_angles(twiddle: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Angles and reflection flags of orthogonal blocks; the inverse of `rotation_twiddle`.

    Args:
        twiddle: Real array ``(*shape, 2, 2)`` of orthogonal blocks.

    Returns:
        Angles in ``(-pi, pi]`` and booleans, each of shape ``(*shape,)``. Of a block that is not
        orthogonal only the first column counts, and the sign of the determinant.

    Raises:
        TypeError: If ``twiddle`` is not real.
        ValueError: If it does not end in ``(2, 2)``.

    Example:
        >>> angles, reflection = rotation_angles(rotation_twiddle(jnp.array([0.25])))
        >>> angles.tolist(), reflection.tolist()
        ([0.25], [False])
    """
    twiddle = _require_blocks(twiddle)
    require_real("twiddle", twiddle)
    determinant = twiddle[..., 0, 0] * twiddle[..., 1, 1] - twiddle[..., 0, 1] * twiddle[..., 1, 0]
    return jnp.arctan2(twiddle[..., 1, 0], twiddle[..., 0, 0]), determinant < 0


def unitary_twiddle(angles: ArrayLike) -> jax.Array:
    """Unitary blocks from four angles each.

    ``exp(i a) [[exp(i b) cos f, exp(i c) sin f], [-exp(-i c) sin f, exp(-i b) cos f]]``, which
    reaches all of U(2).

    Args:
        angles: Real array ``(*shape, 4)`` in radians, in the order ``f, a, b, c``.

    Returns:
        Complex array ``(*shape, 2, 2)``: complex64, or complex128 for float64 angles.

    Raises:
        TypeError: If ``angles`` is not real.
        ValueError: If the last axis is not 4 long.

    Example:
        >>> unitary_twiddle(jnp.zeros((4,))).real.tolist()
        [[1.0, 0.0], [-0.0, 1.0]]

    References:
        Dao et al., github.com/HazyResearch/butterfly (class ButterflyUnitary).
    """
    angles = jnp.asarray(angles)
    require_real("angles", angles)
    if angles.ndim < 1 or angles.shape[-1] != 4:
        raise ValueError(f"angles must have shape (..., 4), got {angles.shape}")
    wide = angles.astype(accumulation_dtype(angles.dtype))
    mix, phase, diagonal, cross = jnp.moveaxis(wide, -1, 0)
    cos, sin = jnp.cos(mix), jnp.sin(mix)
    # products of phases, not phases of sums: a rounded sum of large angles is no longer unitary
    phase, diagonal, cross = (
        jax.lax.complex(jnp.cos(angle), jnp.sin(angle)) for angle in (phase, diagonal, cross)
    )
    cos, sin = phase * cos.astype(phase.dtype), phase * sin.astype(phase.dtype)
    return _stack_block(
        cos * diagonal, sin * cross, -sin * jnp.conj(cross), cos * jnp.conj(diagonal)
    )


def unitary_angles(twiddle: ArrayLike) -> jax.Array:
    """Four angles of unitary blocks; `unitary_twiddle` of them gives the blocks back.

    Args:
        twiddle: Complex or real array ``(*shape, 2, 2)`` of unitary blocks.

    Returns:
        Real array ``(*shape, 4)``, angles ``f`` in [0, pi/2] and ``a, b, c``.

    Raises:
        TypeError: If ``twiddle`` holds integers.
        ValueError: If it does not end in ``(2, 2)``.

    Example:
        >>> blocks = unitary_twiddle(jnp.array([0.3, 1.0, -2.0, 0.5]))
        >>> bool(jnp.allclose(unitary_twiddle(unitary_angles(blocks)), blocks, atol=1e-6))
        True
    """
    twiddle = _require_blocks(twiddle)
    t00, t01 = twiddle[..., 0, 0], twiddle[..., 0, 1]
    t10, t11 = twiddle[..., 1, 0], twiddle[..., 1, 1]
    mix = jnp.arctan2(jnp.hypot(jnp.abs(t01), jnp.abs(t10)), jnp.hypot(jnp.abs(t00), jnp.abs(t11)))
    # the determinant is exp(2 i a); of the two square roots either will do
    phase = jnp.angle(t00 * t11 - t01 * t10) / 2
    # a zero entry has no angle; its partner's is then the one that counts
    diagonal = jnp.angle(jnp.where(jnp.abs(t00) > 0, t00, jnp.ones_like(t00))) - phase
    cross = jnp.angle(jnp.where(jnp.abs(t01) > 0, t01, jnp.ones_like(t01))) - phase
    return jnp.stack([mix, phase, diagonal, cross], axis=-1)


def _require_blocks(twiddle: ArrayLike) -> jax.Array:
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    if twiddle.ndim < 2 or twiddle.shape[-2:] != (2, 2):
        raise ValueError(f"twiddle must have shape (..., 2, 2), got {twiddle.shape}")
    return twiddle

"""Functions of distance: Bessel functions of order 0 under a polynomial cutoff."""

import jax
import jax.numpy as jnp


def bessel_basis(r: jax.Array, num: int, cutoff: float) -> jax.Array:
    r"""Spherical Bessel functions of order 0 that vanish at the cutoff, orthonormal in the ball.

    .. math:: b_n(r) = \sqrt{2 / c} \, \sin(n \pi r / c) / r, \quad n = 1 \ldots num

    Args:
        r: distances, `(*B,)`, positive.
        num: number of functions.
        cutoff: c.

    Returns:
        `(*B, num)`.

    Example:
        >>> bessel_basis(jnp.array([2.5]), 2, 5.0).round(3)
        Array([[0.253, 0.   ]], dtype=float32)

    References:
        Gasteiger, Gross, Günnemann, "Directional Message Passing for Molecular Graphs", 2020,
        arXiv:2003.03123, equation 7.
    """
    r = r[..., None]
    orders = jnp.arange(1, num + 1, dtype=r.dtype).reshape((1,) * (r.ndim - 1) + (num,))
    return (2.0 / cutoff) ** 0.5 * jnp.sin(orders * (jnp.pi / cutoff) * r) / r


def polynomial_cutoff(r: jax.Array, power: int, cutoff: float) -> jax.Array:
    r"""A polynomial that falls smoothly from 1 at distance 0 to 0 at the cutoff.

    .. math:: u(x) = 1 - \tfrac{(p+1)(p+2)}{2} x^p + p (p+2) x^{p+1} - \tfrac{p (p+1)}{2} x^{p+2},
              \quad x = r / c

    Args:
        r: distances, `(*B,)`.
        power: p; value, slope and curvature vanish at the cutoff, p - 1 derivatives at 0.
        cutoff: c; beyond it the value is 0.

    Returns:
        `(*B,)`.

    Example:
        >>> polynomial_cutoff(jnp.array([0.0, 2.5, 5.0, 6.0]), 5, 5.0).round(3)
        Array([1.   , 0.773, 0.   , 0.   ], dtype=float32)

    References:
        Gasteiger, Gross, Günnemann, "Directional Message Passing for Molecular Graphs", 2020,
        arXiv:2003.03123, equation 8.
    """
    p, x = power, r / cutoff
    inner = (p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x**2
    return jnp.where(x < 1, 1.0 - x**p * inner, jnp.zeros_like(x))

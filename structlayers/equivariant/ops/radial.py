"""Functions of the distance: cutoff, Bessel and Gaussian bases, smooth to second order."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive, require_real


def _distances(r: ArrayLike, cutoff: float) -> jax.Array:
    array = jnp.asarray(r)
    require_real("r", array)
    if not cutoff > 0:
        raise ValueError(f"cutoff must be positive, got {cutoff}")
    return array


def polynomial_cutoff(r: ArrayLike, cutoff: float, *, p: int = 5) -> jax.Array:
    r"""A polynomial that falls from 1 to 0, with two continuous derivatives at the cutoff.

    .. math:: u(d) = 1 - \tfrac{(p + 1)(p + 2)}{2} d^p + p (p + 2) d^{p + 1}
        - \tfrac{p (p + 1)}{2} d^{p + 2}, \quad d = r / r_c < 1

    Args:
        r: distances `(...)`, in any unit.
        cutoff: r_c, in the same unit; 0 beyond.
        p: order of the contact with 1 at distance zero.

    Returns:
        `(...)`, the dtype of r.

    Raises:
        TypeError: r is not real floating point.
        ValueError: a cutoff that is not positive, or p below 1.

    Example:
        >>> polynomial_cutoff(jnp.array([0.0, 0.5, 1.0, 2.0]), 1.0, p=3).tolist()
        [1.0, 0.5, 0.0, 0.0]

    References:
        Gasteiger, Gross, Guennemann, "Directional Message Passing for Molecular Graphs", 2020,
        arXiv:2003.03123, equation 8.
    """
    r, p = _distances(r, cutoff), require_positive("p", p)
    # beyond the cutoff the polynomial is evaluated at 1, where it is flat
    d = jnp.minimum(r / cutoff, 1)
    value = 1 - d**p * ((p + 1) * (p + 2) / 2 - d * (p * (p + 2) - d * (p * (p + 1) / 2)))
    return jnp.where(r < cutoff, value, 0)


def bessel_basis(r: ArrayLike, num_basis: int, cutoff: float) -> jax.Array:
    r"""Spherical Bessel functions of order zero that vanish at the cutoff.

    .. math:: b_n(r) = \sqrt{2 / r_c} \, \sin(n \pi r / r_c) / r, \quad n = 1..N

    Orthonormal under `r^2 dr` on (0, r_c). Finite with finite derivatives at distance zero.

    Args:
        r: distances `(...)`.
        num_basis: N.
        cutoff: r_c, in the unit of r.

    Returns:
        `(..., N)`, in `unit^(-3/2)`.

    Raises:
        TypeError: r is not real floating point.
        ValueError: a cutoff or N that is not positive.

    Example:
        >>> print(bessel_basis(jnp.array([0.0, 0.5]), 2, 2.0).round(4))
        [[1.5708 3.1416]
         [1.4142 2.    ]]

    References:
        Gasteiger, Gross, Guennemann, "Directional Message Passing for Molecular Graphs", 2020,
        arXiv:2003.03123, equation 7.
    """
    r, count = _distances(r, cutoff), require_positive("num_basis", num_basis)
    orders = jnp.arange(1, count + 1, dtype=r.dtype).reshape((1,) * r.ndim + (-1,))
    # sinc is smooth at zero; its argument is in units of pi
    wave = orders / cutoff * jnp.sinc(orders * (r[..., None] / cutoff))
    return (jnp.pi * (2 / cutoff) ** 0.5) * wave


def gaussian_basis(
    r: ArrayLike, num_basis: int, cutoff: float, *, start: float = 0.0, width: float | None = None
) -> jax.Array:
    r"""Gaussians at equal distances.

    .. math:: g_n(r) = \exp(-(r - \mu_n)^2 / 2 \sigma^2), \quad
        \mu_n = r_0 + n (r_c - r_0) / (N - 1)

    Args:
        r: distances `(...)`.
        num_basis: N, at least 2.
        cutoff: r_c, where the last centre stands.
        start: r_0, where the first stands.
        width: sigma; None is the distance of two centres.

    Returns:
        `(..., N)`.

    Raises:
        TypeError: r is not real floating point.
        ValueError: fewer than two functions, a start behind the cutoff, a width of zero.

    Example:
        >>> gaussian_basis(jnp.array([2.0]), 3, 2.0).round().tolist()
        [[0.0, 1.0, 1.0]]

    References:
        Schuett et al., "SchNet: A continuous-filter convolutional neural network for modeling
        quantum interactions", 2017, arXiv:1706.08566, section 4.1.
    """
    r, count = _distances(r, cutoff), require_positive("num_basis", num_basis)
    if count < 2 or not start < cutoff:
        raise ValueError(
            f"num_basis must be at least 2 and start below the cutoff {cutoff}, "
            f"got {num_basis} and {start}"
        )
    sigma = (cutoff - start) / (count - 1) if width is None else width
    if not sigma > 0:
        raise ValueError(f"width must be positive, got {width}")
    centres = jnp.linspace(start, cutoff, count, dtype=r.dtype).reshape((1,) * r.ndim + (-1,))
    return jnp.exp(-0.5 * ((r[..., None] - centres) / sigma) ** 2)

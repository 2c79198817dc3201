"""Radial features of an edge: a basis of functions of the length, times a smooth cutoff."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers.equivariant.ops.radial import bessel_basis, gaussian_basis, polynomial_cutoff


class _RadialBasis(nnx.Module):
    """Functions of the length that vanish beyond the cutoff with two derivatives."""

    def __init__(self, num_basis: int, cutoff: float, *, p: int = 5):
        if not cutoff > 0:
            raise ValueError(f"cutoff must be positive, got {cutoff}")
        self.num_basis = require_positive("num_basis", num_basis)
        self.cutoff = cutoff
        self.p = require_positive("p", p)

    def _basis(self, r: jax.Array) -> jax.Array:
        raise NotImplementedError

    def __call__(self, r: ArrayLike) -> jax.Array:
        """The features.

        Args:
            r: lengths `(*B,)`, in the unit of the cutoff.

        Returns:
            `(*B, N)`, zero from the cutoff on.

        Raises:
            TypeError: r is not real floating point.
        """
        with jax.named_scope(f"structlayers.{type(self).__name__}"):
            r = jnp.asarray(r)
            return self._basis(r) * polynomial_cutoff(r, self.cutoff, p=self.p)[..., None]


class BesselBasis(_RadialBasis):
    """`bessel_basis` times `polynomial_cutoff`, the radial features of NequIP and MACE.

    Args:
        num_basis: N.
        cutoff: length from which on there is no edge.
        p: order of the cutoff; MACE takes 5, NequIP 6.

    Raises:
        ValueError: N, cutoff or p that is not positive.

    Example:
        >>> BesselBasis(8, 5.0)(jnp.array([1.0, 5.0])).shape
        (2, 8)

    References:
        Gasteiger, Gross, Guennemann, "Directional Message Passing for Molecular Graphs", 2020,
        arXiv:2003.03123, equations 7 and 8.
    """

    def _basis(self, r: jax.Array) -> jax.Array:
        return bessel_basis(r, self.num_basis, self.cutoff)


class GaussianBasis(_RadialBasis):
    """`gaussian_basis` from 0 to the cutoff, times `polynomial_cutoff`.

    Args:
        num_basis: N, at least 2.
        cutoff: length from which on there is no edge.
        p: order of the cutoff.

    Raises:
        ValueError: N, cutoff or p that is not positive.

    Example:
        >>> GaussianBasis(8, 5.0)(jnp.array([1.0, 5.0])).shape
        (2, 8)

    References:
        Schuett et al., "SchNet: A continuous-filter convolutional neural network for modeling
        quantum interactions", 2017, arXiv:1706.08566, section 4.1.
    """

    def _basis(self, r: jax.Array) -> jax.Array:
        return gaussian_basis(r, self.num_basis, self.cutoff)

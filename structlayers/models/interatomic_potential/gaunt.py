"""Symmetric contractions by products on the sphere: Gaunt couplings, and odd ones beside them."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.equivariant import many_body_product
from structlayers.equivariant.ops.vector_signal import (
    vector_signal_table,
    vector_signal_tensor_product,
)
from structlayers.models.interatomic_potential.parts import degrees_of, normal

if TYPE_CHECKING:
    from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig


@functools.cache
def gaunt_scales(lmax: int, lmax_out: int, order: int) -> np.ndarray:
    r"""What makes the squares of a power's coefficients sum to the number of components.

    .. math:: s(p, l)^{-2} = \frac{1}{2 l + 1} \sum_{m, i_1 \ldots i_p}
              \Big( \int Y_{l m} Y_{i_1} \cdots Y_{i_p} \Big)^2
              = 2 \pi \int_{-1}^{1} P_l(t)
              \Big( \sum_{k \le L} \tfrac{2 k + 1}{4 \pi} P_k(t) \Big)^p dt

    by the addition theorem of spherical harmonics.

    Args:
        lmax: largest degree L of the signal.
        lmax_out: largest degree of the result.
        order: largest power nu.

    Returns:
        float64 `(nu, lmax_out + 1)`; 0 where a power has no such degree.

    Example:
        >>> gaunt_scales(1, 1, 2).round(3).tolist()
        [[1.0, 1.0], [1.772, 2.507]]
    """
    legendre = np.polynomial.legendre
    t, measure = legendre.leggauss(lmax * order + lmax_out + 1)
    kernel = legendre.legval(t, (2 * np.arange(lmax + 1) + 1) / (4 * np.pi))
    degrees = legendre.legvander(t, lmax_out)  # points l
    sums = [2 * np.pi * (measure * kernel**power) @ degrees for power in range(1, order + 1)]
    within = np.arange(lmax_out + 1) <= lmax * np.arange(1, order + 1)[:, None]
    return np.where(within, 1 / np.sqrt(np.where(within, sums, 1)), 0)


class GauntContraction(nnx.Module):
    r"""Powers of the signal on the sphere whose coefficients are the neighbour sums.

    .. math:: B_{n c l m} = R^{-1/2} \sum_{r, \nu} W^{\nu}_{z_n r c l} \, s^{\nu - 1} s(\nu, l)
              \int Y_{l m} f_{n r c}^\nu, \qquad
              f_{n r c} = \sum_{l m} a_{z_n r c l} A_{n c l m} Y_{l m}

    One weight for each power and degree instead of one for each path: only couplings that are
    products of Gaunt coefficients. With R = 1 the factor a is 1. s is the config's `power_scale`.

    Args:
        config: sizes; `correlation` is the largest nu.
        lmax_out: largest degree of the result.
        rank: R.
        rngs: keys for the weights.

    References:
        Luo, Chen, Krishnapriyan, "Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products", 2024, arXiv:2401.10216.
    """

    def __init__(
        self,
        config: "InteratomicPotentialConfig",
        lmax_out: int,
        *,
        rank: int = 1,
        rngs: nnx.Rngs,
    ):
        self.config, self.lmax_out, self.rank = config, lmax_out, rank
        self.precision = config.jax_precision
        shape = (len(config.species), rank, config.channels)
        self.weights = normal(rngs, (*shape, config.correlation, lmax_out + 1), config.dtype)
        several = normal(rngs, (*shape, config.lmax + 1), config.dtype) if rank > 1 else None
        self.factors = several

    def __call__(self, a: jax.Array, one_hot: jax.Array) -> jax.Array:
        """Contracts `a (N, C, (lmax + 1)^2)` for elements `one_hot (N, Z)`."""
        config, signal = self.config, a[:, None]
        if self.factors is not None:
            degrees = degrees_of(config.lmax, a.dtype)
            factors = jnp.einsum("zrcl,il->zrci", self.factors[...], degrees, precision="highest")
            factors = jnp.einsum("nz,zrci->nrci", one_hot, factors, precision=self.precision)
            signal = signal * factors
        scales = gaunt_scales(config.lmax, self.lmax_out, config.correlation) * self.rank**-0.5
        scales = scales * config.power_scale ** np.arange(config.correlation)[:, None]
        spread = scales[:, :, None] * degrees_of(self.lmax_out, np.float64).T
        weights = self.weights[...][..., None] * jnp.asarray(spread, a.dtype)[None, None, None]
        weights = jnp.sum(weights, axis=-2)  # Z R C powers components
        powers = many_body_product(
            signal,
            order=config.correlation,
            lmax=self.lmax_out,
            precision=config.precision,
            implementation=config.implementation,
        )
        weights = jnp.einsum("nz,zrcpi->nrcpi", one_hot, weights, precision=self.precision)
        return jnp.sum(powers * weights, axis=(1, 3))


def _dense_vector_product(lmax_in: int, lmax_out: int) -> np.ndarray:
    """Coefficients of the vector-signal product, `(D, D, (lmax_out + 1)^2)` float64."""
    table = vector_signal_table((lmax_in, lmax_in, lmax_out), (-1, -1, -1))
    dense = np.zeros(table.sizes)
    for position, path in enumerate(table.paths):
        # degrees are 0, 1, 2, ..., so that a block's position is its degree
        block = tuple(slice(degree**2, (degree + 1) ** 2) for degree in path)
        dense[block] += table.tensor(position)
    return dense


@functools.cache
def vector_signal_scales(lmax: int, lmax_out: int) -> np.ndarray:
    """What makes the squares of the coefficients of two vector products sum to 2 l + 1.

    Args:
        lmax: largest degree of the three factors and of the first product.
        lmax_out: largest degree of the result.

    Returns:
        float64 `(lmax_out + 1,)`; 0 for degree 0, which no odd coupling reaches.

    Example:
        >>> (vector_signal_scales(1, 1) / np.pi).round(3).tolist()
        [0.0, 2.0]
    """
    first, second = (_dense_vector_product(lmax, degree) for degree in (lmax, lmax_out))
    both = np.einsum("ijt,tkm->ijkm", first, second)
    sums = np.sum(both**2, axis=(0, 1, 2)) @ degrees_of(lmax_out, np.float64)
    sums /= 2 * np.arange(lmax_out + 1) + 1
    return np.where(sums > 1e-12, 1 / np.sqrt(np.where(sums > 1e-12, sums, 1)), 0)


class VectorSignalContraction(nnx.Module):
    r"""The Gaunt contraction, and products of three with two odd couplings.

    .. math:: B_{n c} = B^{\mathrm{Gaunt}}_{n c} + s^2 w_{z_n c} \circ
              \big( (a_{z_n c} \circ A_{n c} \times b_{z_n c} \circ A_{n c}) \times
              d_{z_n c} \circ A_{n c} \big)

    with x the product of vector signals, whose couplings have odd sums of degrees, and weights by
    degree: the first product is a pseudotensor, the second a true tensor again. Invariants have no
    such coupling, so a contraction to degree 0 is the Gaunt contraction alone.

    Args:
        config: sizes; `correlation` is at least 3.
        lmax_out: largest degree of the result.
        rngs: keys for the weights.

    Raises:
        ValueError: a correlation below 3.

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523, on odd couplings.
    """

    def __init__(self, config: "InteratomicPotentialConfig", lmax_out: int, *, rngs: nnx.Rngs):
        if config.correlation < 3:
            raise ValueError(
                "the contraction 'gaunt_vector_signal' couples three neighbours: correlation must "
                f"be at least 3, got {config.correlation}"
            )
        self.config, self.lmax_out = config, lmax_out
        self.gaunt = GauntContraction(config, lmax_out, rngs=rngs)
        shape, several = (len(config.species), config.channels), lmax_out > 0
        size = config.lmax + 1
        factors = normal(rngs, (*shape, 3, size), config.dtype) if several else None
        weights = normal(rngs, (*shape, lmax_out + 1), config.dtype) if several else None
        self.factors, self.weights = factors, weights

    def __call__(self, a: jax.Array, one_hot: jax.Array) -> jax.Array:
        """Contracts `a (N, C, (lmax + 1)^2)` for elements `one_hot (N, Z)`."""
        result = self.gaunt(a, one_hot)
        if self.factors is None or self.weights is None:
            return result
        config = self.config
        precision = config.jax_precision

        def by_component(weights: jax.Array, scales: Any, lmax: int) -> jax.Array:
            """Of every atom, from `(Z, C, F, L + 1)`: `(F, N, C, (L + 1)^2)`."""
            table = jnp.asarray(degrees_of(lmax, np.float64) * scales, a.dtype)
            spread = jnp.einsum("zcfl,il->zcfi", weights, table, precision="highest")
            return jnp.einsum("nz,zcfi->fnci", one_hot, spread, precision=precision)

        first, second, third = by_component(self.factors[...], 1.0, config.lmax)
        scales = vector_signal_scales(config.lmax, self.lmax_out) * config.power_scale**2
        (weights,) = by_component(self.weights[...][:, :, None], scales, self.lmax_out)
        product = functools.partial(vector_signal_tensor_product, precision=config.precision)
        pseudo = product(first * a, second * a, lmax=config.lmax)
        return result + weights * product(pseudo, third * a, lmax=self.lmax_out)

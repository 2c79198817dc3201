"""The symmetric contraction with all Clebsch-Gordan couplings."""

import functools
from typing import TYPE_CHECKING

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.models.interatomic_potential.parts import normal

if TYPE_CHECKING:
    from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig


@functools.cache
def symmetric_basis(lmax: int, lmax_out: int, power: int) -> np.ndarray:
    """A basis of the symmetric equivariant polynomials of one power of natural parity.

    Args:
        lmax: largest degree of the argument.
        lmax_out: largest degree of the value.
        power: degree of the polynomials, at least 1.

    Returns:
        float64 `(paths, (lmax + 1)^2, ..., (lmax_out + 1)^2)`, `power` axes of the argument
        between. A path has values in the components of one degree, and squares that sum to their
        number.

    Example:
        >>> [symmetric_basis(3, 2, power).shape[0] for power in (1, 2, 3)]
        [3, 12, 34]
    """
    kept = [ir for _, ir in e3nn.s2_irreps(lmax_out)]
    found = e3nn.reduced_symmetric_tensor_product_basis(e3nn.s2_irreps(lmax), power, keep_ir=kept)
    array, blocks, place = np.asarray(found.array, np.float64), [], 0
    for multiplicity, ir in found.irreps:
        degree = ir.l
        for _ in range(multiplicity):
            block = np.zeros((*array.shape[:-1], (lmax_out + 1) ** 2))
            values = array[..., place : place + ir.dim]
            block[..., degree**2 : (degree + 1) ** 2] = values * np.sqrt(ir.dim / np.sum(values**2))
            blocks.append(block)
            place += ir.dim
    return np.stack(blocks)


@functools.cache
def _pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of D components: each with those at most D / 2 places further on, cyclically.

    Returns:
        The second of every pair, int64 `(D // 2 + 1, D)`, and how often it counts, float64: a pair
        of two stands for both orders, and for even D those half way round are there twice.
    """
    shifts = np.arange(size // 2 + 1)
    second = (np.arange(size) + shifts[:, None]) % size
    twice = (2 * shifts == size) | (shifts == 0)
    return second, np.broadcast_to(np.where(twice, 1.0, 2.0)[:, None], second.shape)


@functools.cache
def _folded_basis(lmax: int, lmax_out: int, power: int) -> np.ndarray:
    """The basis of a power >= 2 on the products of two factors: `(paths, pairs, rest)`.

    Pairs are those of `_pairs`; each path is divided by the root of the number of paths into its
    degree.
    """
    basis = symmetric_basis(lmax, lmax_out, power)
    paths, size = basis.shape[:2]
    used = np.abs(basis).reshape(paths, -1, basis.shape[-1]).max(axis=1) > 0  # paths M
    basis = (
        basis
        * (used @ (1 / used.sum(axis=0)) / used.sum(axis=1)).reshape(-1, *[1] * (power + 1)) ** 0.5
    )
    second, times = _pairs(size)
    folded = basis[:, np.arange(size)[None], second] * times.reshape(
        *times.shape, *[1] * (power - 1)
    )
    return folded.reshape(paths, times.size, -1)


def _products_of_two(a: jax.Array) -> jax.Array:
    """Of every pair of components: `(..., D)` to `(..., D // 2 + 1, D)`.

    The second factors come by a product with ones and zeros, whose transpose is one as well, not a
    scatter.
    """
    second = _pairs(a.shape[-1])[0]
    chosen = np.arange(a.shape[-1])[:, None] == second.ravel()
    others = jnp.matmul(a, jnp.asarray(chosen, a.dtype), precision="highest")
    return a[..., None, :] * others.reshape(*a.shape[:-1], *second.shape)


class ClebschGordanContraction(nnx.Module):
    r"""All symmetric polynomials, by the symmetrised Clebsch-Gordan basis.

    .. math:: B_{n c M} = \sum_{\nu, p} W^\nu_{z_n p c} \sum_{i_1 \ldots i_\nu}
              U^{\nu p}_{i_1 \ldots i_\nu M} A_{n c i_1} \cdots A_{n c i_\nu}

    Two factors of all powers are contracted at once, the others one at a time from the highest
    power down.

    Args:
        config: sizes; `correlation` is the largest nu.
        lmax_out: largest degree of the result.
        rngs: keys for the weights.

    References:
        Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697,
        equations 10 and 11.
    """

    def __init__(self, config: "InteratomicPotentialConfig", lmax_out: int, *, rngs: nnx.Rngs):
        self.lmax, self.lmax_out = config.lmax, lmax_out
        self.precision = config.jax_precision
        shape = (len(config.species), config.channels)
        powers = range(1, config.correlation + 1)
        paths = [len(symmetric_basis(config.lmax, lmax_out, power)) for power in powers]
        self.weights = nnx.List([normal(rngs, (*shape, count), config.dtype) for count in paths])

    def __call__(self, a: jax.Array, one_hot: jax.Array) -> jax.Array:
        """Contracts `a (N, C, (lmax + 1)^2)` for elements `one_hot (N, Z)`."""
        basis = jnp.asarray(symmetric_basis(self.lmax, self.lmax_out, 1), a.dtype)
        linear = jnp.einsum(
            "nz,zcp,pim->ncim", one_hot, self.weights[0][...], basis, precision=self.precision
        )
        result = jnp.einsum("nci,ncim->ncm", a, linear, precision=self.precision)
        powers = range(2, len(self.weights) + 1)
        if not powers:
            return result
        tables = [_folded_basis(self.lmax, self.lmax_out, power) for power in powers]
        species, channels = self.weights[0].shape[:2]
        coefficients = [
            jnp.einsum(
                "zcp,ptq->cztq",
                self.weights[power - 1][...],
                jnp.asarray(table, a.dtype),
                precision=self.precision,
            )
            for power, table in zip(powers, tables, strict=True)
        ]
        pairs = _products_of_two(a)
        # of every element, 0 but for that of the atom: one product for all elements
        pairs = pairs[:, :, None] * one_hot[:, None, :, None, None]
        joined = jnp.einsum(
            "nct,ctq->ncq",
            pairs.reshape(*a.shape[:2], -1),
            jnp.concatenate(coefficients, axis=-1).reshape(
                channels, species * tables[0].shape[1], -1
            ),
            precision=self.precision,
        )
        sizes = [table.shape[-1] for table in tables]
        parts = jnp.split(joined, np.cumsum(sizes)[:-1], axis=-1)
        total = jnp.zeros_like(parts[-1])
        for index, part in enumerate(reversed(parts)):
            if index:
                rest = total.reshape(*a.shape, -1)
                total = jnp.einsum("nciq,nci->ncq", rest, a, precision=self.precision)
            total = total + part
        return result + total

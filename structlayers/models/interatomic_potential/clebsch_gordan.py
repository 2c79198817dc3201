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
def _folded_basis(lmax: int, lmax_out: int, power: int) -> np.ndarray:
    """The basis of a power >= 2 on the monomials of two factors: `(paths, pairs, rest)`.

    Pairs are in the order of `_pairs`; each path is divided by the root of the number of paths into
    its degree.
    """
    basis = symmetric_basis(lmax, lmax_out, power)
    paths, size = basis.shape[:2]
    used = np.abs(basis).reshape(paths, -1, basis.shape[-1]).max(axis=1) > 0  # paths M
    basis = (
        basis
        * (used @ (1 / used.sum(axis=0)) / used.sum(axis=1)).reshape(-1, *[1] * (power + 1)) ** 0.5
    )
    rows = [np.arange(size - shift) for shift in range(size)]
    first = np.concatenate(rows)
    second = np.concatenate([row + shift for shift, row in enumerate(rows)])
    folded = basis[:, first, second] * np.where(first == second, 1, 2).reshape(
        -1, *[1] * (power - 1)
    )
    return folded.reshape(paths, len(first), -1)


def _pairs(a: jax.Array) -> jax.Array:
    """All products of two components, by diagonals: `(..., D)` to `(..., D (D + 1) / 2)`.

    Slices, not indices: their transpose is a sum of padded arrays instead of a scatter.
    """
    size = a.shape[-1]
    return jnp.concatenate([a[..., : size - k] * a[..., k:] for k in range(size)], axis=-1)


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
        coefficients = [
            jnp.einsum(
                "zcp,ptq->zctq",
                self.weights[power - 1][...],
                jnp.asarray(table, a.dtype),
                precision=self.precision,
            )
            for power, table in zip(powers, tables, strict=True)
        ]
        each = jnp.einsum(
            "nct,zctq->nzcq",
            _pairs(a),
            jnp.concatenate(coefficients, axis=-1),
            precision=self.precision,
        )
        joined = jnp.sum(each * one_hot[:, :, None, None], axis=1)
        sizes = [table.shape[-1] for table in tables]
        parts = jnp.split(joined, np.cumsum(sizes)[:-1], axis=-1)
        total = jnp.zeros_like(parts[-1])
        for index, part in enumerate(reversed(parts)):
            if index:
                rest = total.reshape(*a.shape, -1)
                total = jnp.einsum("nciq,nci->ncq", rest, a, precision=self.precision)
            total = total + part
        return result + total

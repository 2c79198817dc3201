"""The symmetric contraction with all Clebsch-Gordan couplings."""

import functools
import itertools
import math
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


def _inner_products(size: int, degree: int) -> list[tuple[int, ...]]:
    """Products of at most two components that are formed first; pairs lie within one half.

    Of three components two are always within one half, so that these times one more component are
    all products of three.
    """
    if degree < 2:
        return list(itertools.product(range(size), repeat=degree))
    half = (size + 1) // 2
    parts = range(half), range(half, size)
    return [pair for part in parts for pair in itertools.combinations_with_replacement(part, 2)]


@functools.cache
def _table(lmax: int, lmax_out: int, power: int, level: int) -> np.ndarray:
    """The basis of a power on inner products and `level` more factors: `(paths, inner, rest)`.

    Places of the same product share its coefficient; each path is divided by the root of the number
    of paths into its degree.
    """
    basis = symmetric_basis(lmax, lmax_out, power)
    paths, size = basis.shape[:2]
    used = np.abs(basis).reshape(paths, -1, basis.shape[-1]).max(axis=1) > 0  # paths M
    same = used.sum(axis=0)[used.argmax(axis=1)]
    inner = _inner_products(size, power - level)
    others = list(itertools.product(range(size), repeat=level))
    index = np.array([one + rest for one in inner for rest in others])
    products, which, places = np.unique(
        np.sort(index, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    factorial = np.array([math.factorial(k) for k in range(power + 1)])
    times = (products[:, :, None] == np.arange(size)).sum(axis=1)
    orders = factorial[power] / factorial[times].prod(axis=1)
    values = basis[:, *index.T] * (orders / places)[which.ravel(), None]
    return (values / np.sqrt(same)[:, None, None]).reshape(paths, len(inner), -1)


def _powers(level: int, correlation: int) -> range:
    """Powers that have `level` factors besides an inner product; the lowest three have one."""
    return range(1 if level == 1 else level + 2, min(level + 2, correlation) + 1)


@functools.cache
def _joined_table(lmax: int, lmax_out: int, level: int, correlation: int) -> np.ndarray:
    """Tables of the powers of a level: `(paths, inner, rest)`, 0 where those of two powers meet."""
    blocks = [_table(lmax, lmax_out, power, level) for power in _powers(level, correlation)]
    paths, inner = (np.cumsum([0, *(block.shape[axis] for block in blocks)]) for axis in (0, 1))
    joined = np.zeros((paths[-1], inner[-1], blocks[0].shape[2]))
    for place, block in enumerate(blocks):
        rows, columns = (slice(*ends[place : place + 2]) for ends in (paths, inner))
        joined[rows, columns] = block
    return joined


def _products(a: jax.Array, degrees: range) -> jax.Array:
    """The inner products of some degrees: `(..., D)` to `(..., inner)`.

    Their factors come by a product with ones and zeros, whose transpose is one as well, not a
    scatter.
    """
    size = a.shape[-1]
    inner = [one for degree in degrees for one in _inner_products(size, degree)]
    chosen, alone = np.zeros((size, 2, len(inner))), np.zeros((2, len(inner)))
    for column, one in enumerate(inner):
        chosen[one, range(len(one)), column] = 1
        alone[len(one) :, column] = 1
    factors = jnp.matmul(a, jnp.asarray(chosen.reshape(size, -1), a.dtype), precision="highest")
    factors = factors + jnp.broadcast_to(jnp.asarray(alone.ravel(), a.dtype), factors.shape)
    factors = factors.reshape(*a.shape[:-1], *alone.shape)
    return factors[..., 0, :] * factors[..., 1, :]


class ClebschGordanContraction(nnx.Module):
    r"""All symmetric polynomials, by the symmetrised Clebsch-Gordan basis.

    .. math:: B_{n c M} = \sum_{\nu, p} s^{\nu - 1} W^\nu_{z_n p c} \sum_{i_1 \ldots i_\nu}
              U^{\nu p}_{i_1 \ldots i_\nu M} A_{n c i_1} \cdots A_{n c i_\nu}

    s is the config's `power_scale`. Products of no, one and two factors times the coefficients of
    the atom's element are what one more factor multiplies: all powers up to three are one product.
    Higher powers are contracted one factor at a time from the highest down.

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
        self.power_scale, self.precision = config.power_scale, config.jax_precision
        shape = (len(config.species), config.channels)
        powers = range(1, config.correlation + 1)
        paths = [len(symmetric_basis(config.lmax, lmax_out, power)) for power in powers]
        self.weights = nnx.List([normal(rngs, (*shape, count), config.dtype) for count in paths])

    def __call__(self, a: jax.Array, one_hot: jax.Array) -> jax.Array:
        """Contracts `a (N, C, (lmax + 1)^2)` for elements `one_hot (N, Z)`."""
        # channels first, as the products have them: only arrays of this size are transposed
        a, most = jnp.swapaxes(a, 0, 1), max(len(self.weights) - 2, 1)
        total = self._contracted(a, one_hot, most)
        for level in range(most, 0, -1):
            if level < most:
                total = total + self._contracted(a, one_hot, level)
            rest = total.reshape(*a.shape, -1)
            total = jnp.einsum("cniq,cni->cnq", rest, a, precision=self.precision)
        return jnp.swapaxes(total, 0, 1)

    def _contracted(self, a: jax.Array, one_hot: jax.Array, level: int) -> jax.Array:
        """Inner products of `a (C, N, D)` with their coefficients: `(C, N, rest)`."""
        powers = _powers(level, len(self.weights))
        table = _joined_table(self.lmax, self.lmax_out, level, len(self.weights))
        weights = jnp.concatenate(
            [self.weights[power - 1][...] * self.power_scale ** (power - 1) for power in powers],
            axis=-1,
        )
        species, channels = weights.shape[:2]
        # in the order in which they are multiplied, so that nothing this large is transposed
        coefficients = jnp.matmul(
            jnp.swapaxes(weights, 0, 1).reshape(-1, len(table)),
            jnp.asarray(table.reshape(len(table), -1), a.dtype),
            precision=self.precision,
        ).reshape(channels, species * table.shape[1], -1)
        products = _products(a, range(powers[0] - level, powers[-1] - level + 1))
        # of every element, 0 but for that of the atom: one product for all elements
        products = products[:, :, None] * one_hot[None, :, :, None]
        return jnp.einsum(
            "cnt,ctq->cnq",
            products.reshape(*a.shape[:2], -1),
            coefficients,
            precision=self.precision,
        )

"""Parts of the potential: linear maps by degree, the radial network, readouts.

Weights start standard normal and are divided by the root of their fan-in in the call, so that one
learning rate suits all of them.
"""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
# silu of a standard normal has this root mean square
_SILU_RMS = float(
    np.sqrt(np.sum(_WEIGHTS * (_NODES / (1 + np.exp(-_NODES))) ** 2 / np.sum(_WEIGHTS)))
)


def normal(rngs: nnx.Rngs, shape: Sequence[int], dtype: Dtype) -> nnx.Param:
    """A parameter of standard normal entries."""
    return nnx.Param(jax.random.normal(rngs.params(), tuple(shape), dtype))


def degrees_of(lmax: int, dtype: Dtype) -> np.ndarray:
    """1 where component i is of degree l: `((lmax + 1)^2, lmax + 1)`."""
    degrees = np.floor(np.sqrt(np.arange((lmax + 1) ** 2))).astype(int)
    return np.eye(lmax + 1, dtype=dtype)[degrees]


class DegreeLinear(nnx.Module):
    r"""Mixes channels, with other weights for each degree, and for each element where asked.

    .. math:: y_{n d l m} = C^{-1/2} \sum_c W_{[z_n] l c d} \, x_{n c l m}

    Args:
        channels: C, in and out.
        lmax: largest degree.
        num_species: Z for weights by element; None is none.
        dtype: of the weights.
        precision: of the products.
        rngs: key for the weights.
    """

    def __init__(
        self,
        channels: int,
        lmax: int,
        *,
        num_species: int | None = None,
        dtype: Dtype,
        precision: jax.lax.Precision,
        rngs: nnx.Rngs,
    ):
        self.lmax, self.precision = lmax, precision
        self.scale = channels**-0.5
        species = () if num_species is None else (num_species,)
        self.kernel = normal(rngs, (*species, lmax + 1, channels, channels), dtype)

    def __call__(self, x: jax.Array, one_hot: jax.Array | None = None) -> jax.Array:
        """Maps `(N, C, (lmax + 1)^2)`; `one_hot` are the elements, `(N, Z)`."""
        kernel = self.kernel[...] * self.scale
        by_component = jnp.einsum(
            "il,...lcd->...icd", degrees_of(self.lmax, kernel.dtype), kernel, precision="highest"
        )
        if one_hot is None:
            return jnp.einsum("nci,icd->ndi", x, by_component, precision=self.precision)
        each = jnp.einsum("nci,zicd->nzdi", x, by_component, precision=self.precision)
        return jnp.sum(each * one_hot[:, :, None, None], axis=1)


class PlainNetwork(nnx.Module):
    """A network without biases: silu scaled to unit mean square between its layers.

    Args:
        sizes: of input, hidden layers and output.
        dtype: of the weights.
        precision: of the products.
        rngs: key for the weights.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dtype: Dtype,
        precision: jax.lax.Precision,
        rngs: nnx.Rngs,
    ):
        self.precision = precision
        self.kernels = nnx.List([normal(rngs, pair, dtype) for pair in pairwise(sizes)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(N, sizes[0])` to `(N, sizes[-1])`; 0 to 0."""
        for index, kernel in enumerate(self.kernels):
            if index:
                x = jax.nn.silu(x) / _SILU_RMS
            weights = kernel[...] * (kernel.shape[0] ** -0.5)
            x = jnp.matmul(x, weights, precision=self.precision)
        return x

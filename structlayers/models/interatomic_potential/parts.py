"""Parts of the potential: linear maps by degree, readouts.

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

    .. math:: y_{n l m d} = C^{-1/2} \sum_c W_{[z_n] l c d} \, x_{n l m c}

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
        species = () if num_species is None else (num_species,)
        self.kernel = normal(rngs, (*species, lmax + 1, channels, channels), dtype)

    def __call__(self, x: jax.Array, one_hot: jax.Array | None = None) -> jax.Array:
        """Maps `(N, (lmax + 1)^2, C)`; `one_hot` are the elements, `(N, Z)`."""
        kernel = self.kernel[...]
        if one_hot is not None:
            # channels of every element, 0 but for that of the atom: one product for all elements
            x = (x[:, :, None] * one_hot[:, None, :, None]).reshape(*x.shape[:2], -1)
            kernel = jnp.swapaxes(kernel, 0, 1).reshape(self.lmax + 1, -1, kernel.shape[-1])
        scale = self.kernel.shape[-1] ** -0.5
        if self.lmax == 0:
            return jnp.matmul(x[:, 0], kernel[0], precision=self.precision)[:, None] * scale
        # broadcast, not gathered: its transpose is a sum, not a scatter
        by_component = jnp.concatenate(
            [
                jnp.broadcast_to(part * scale, (2 * degree + 1, *part.shape))
                for degree, part in enumerate(kernel)
            ]
        )
        return by_batch(x, by_component, self.precision)


def by_batch(x: jax.Array, weights: jax.Array, precision: jax.lax.Precision) -> jax.Array:
    """Products `(N, I, C)` with `(I, C, D)` to `(N, I, D)`.

    Unlike those of `einsum` they lie with D last in memory, as what is multiplied next does.
    """
    return jnp.swapaxes(jnp.matmul(jnp.swapaxes(x, 0, 1), weights, precision=precision), 0, 1)


def scaled_silu(x: jax.Array) -> jax.Array:
    """Of unit mean square for a standard normal argument; 0 at 0."""
    return jax.nn.silu(x) * (1 / _SILU_RMS)


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
            x = scaled_silu(x) if index else x
            x = jnp.matmul(x, kernel[...], precision=self.precision) * kernel.shape[0] ** -0.5
        return x

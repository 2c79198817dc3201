"""Radial weights of all interactions: networks of functions of the distance, with their slopes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from structlayers.models.interatomic_potential.parts import normal, scaled_silu
from structlayers.models.interatomic_potential.slopes import by_slopes


class RadialNetworks(nnx.Module):
    """Networks of the distance, one for each of T interactions, whose last layers are others'.

    All hidden layers are evaluated at once, and values and slopes in the same products. No biases,
    silu scaled to unit mean square after each layer.

    Args:
        num_networks: T.
        sizes: of the basis and of hidden layers.
        dtype: of the weights.
        precision: of the products.
        rngs: key for the weights.
    """

    def __init__(
        self,
        num_networks: int,
        sizes: Sequence[int],
        *,
        dtype: Dtype,
        precision: jax.lax.Precision,
        rngs: nnx.Rngs,
    ):
        self.num_networks, self.precision = num_networks, precision
        self.kernels = nnx.List(
            [normal(rngs, (num_networks, *pair), dtype) for pair in pairwise(sizes)]
        )

    def __call__(
        self,
        distances: jax.Array,
        basis: Callable[[jax.Array], jax.Array],
        last: Sequence[jax.Array],
    ) -> list[jax.Array]:
        """Maps distances `(E,)` to `(E, ...)` for each interaction; 0 where the basis is 0.

        Args:
            distances: of the edges.
            basis: from `(...)` to `(..., sizes[0])`.
            last: weights of the last layer of each, `(sizes[-1], ...)`.
        """

        def rows(slopes: bool, x: jax.Array, weights: Any) -> list[jax.Array]:
            kernels, last = weights
            distances = jnp.stack([x[:, 0], jnp.ones_like(x[:, 0])][: 1 + slopes])
            found = _rows(basis, distances[None])
            hidden = jnp.broadcast_to(found, (self.num_networks, *found.shape[1:]))
            for kernel in kernels:
                shape = hidden.shape[:3]  # networks, values and slopes, edges
                flat = hidden.reshape(shape[0], shape[1] * shape[2], kernel.shape[1])
                flat = jnp.matmul(flat, kernel, precision=self.precision)
                flat = flat * kernel.shape[1] ** -0.5
                hidden = _rows(scaled_silu, flat.reshape(*shape, kernel.shape[2]))
            return [
                jnp.matmul(one, kernel.reshape(len(kernel), -1), precision=self.precision).reshape(
                    *one.shape[:2], *kernel.shape[1:]
                )
                for one, kernel in zip(hidden, last, strict=True)
            ]

        kernels = [kernel[...] for kernel in self.kernels]
        return by_slopes(rows, distances[:, None], (kernels, list(last)))


def _rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The function of values `(T, 1, ...)`, and its slopes behind it, where there are some."""
    if x.shape[1] == 1:
        return function(x)
    return jnp.stack(jax.jvp(function, (x[:, 0],), (x[:, 1],)), axis=1)

"""The sum over neighbours: features of senders times harmonics of edges, by radial weights."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.equivariant import clebsch_gordan
from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig
from structlayers.models.interatomic_potential.edges import Edges
from structlayers.models.interatomic_potential.parts import DegreeLinear, by_batch, normal


class Paths(NamedTuple):
    """Couplings of an edge's harmonics with a sender's features.

    Attributes:
        counts: `(lmax + 1,)`, the number P_l of paths into each degree.
        table: `((lmax + 1)^2, (hidden + 1)^2, sum_l P_l (2 l + 1))` float64; the last axis goes
            through the degrees, then the paths, then the order m.
    """

    counts: tuple[int, ...]
    table: np.ndarray


@functools.cache
def natural_paths(lmax: int, hidden_lmax: int) -> Paths:
    """All couplings with an even sum of degrees, which keep the parity of true tensors.

    With factors of unit variance in every component, a product has unit variance, too.

    Args:
        lmax: largest degree of the harmonics and of the result.
        hidden_lmax: largest degree of the features.

    Example:
        >>> natural_paths(3, 0).counts, natural_paths(3, 2).counts
        ((1, 1, 1, 1), (3, 5, 5, 4))
    """
    counts, blocks = [], []
    for l3 in range(lmax + 1):
        found = 0
        for l1 in range(lmax + 1):
            for l2 in range(hidden_lmax + 1):
                if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
                    continue
                block = np.zeros(((lmax + 1) ** 2, (hidden_lmax + 1) ** 2, 2 * l3 + 1))
                coupling = np.sqrt(2 * l3 + 1) * clebsch_gordan(l1, l2, l3)
                block[l1**2 : (l1 + 1) ** 2, l2**2 : (l2 + 1) ** 2] = coupling
                blocks.append(block)
                found += 1
        counts.append(found)
    return Paths(tuple(counts), np.concatenate(blocks, axis=2))


class NeighbourSum(nnx.Module):
    r"""The one-particle basis of each atom: messages of its neighbours, summed, channels mixed.

    .. math:: A_{n l_3 m_3 d} = \sum_{p, c} W_{p c d} \frac{1}{\bar N} \sum_{e \to n} R_{p c}(r_e)
              \sum_{m_1 m_2} C^{l_3 m_3}_{l_1 m_1 l_2 m_2} Y_{l_1 m_1}(e) \, (V h)_{s(e) l_2 m_2 c}

    over paths p = (l1, l2, l3) with an even sum, R the last layer of a radial network, V a linear
    map by degree.

    Args:
        config: sizes.
        hidden_lmax: largest degree of the features h.
        rngs: keys for the weights.

    References:
        Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697,
        equations 8 and 9.
    """

    def __init__(self, config: InteratomicPotentialConfig, hidden_lmax: int, *, rngs: nnx.Rngs):
        self.config, self.hidden_lmax = config, hidden_lmax
        self.precision = config.jax_precision
        options = {"dtype": config.dtype, "precision": self.precision, "rngs": rngs}
        channels, paths = config.channels, sum(natural_paths(config.lmax, hidden_lmax).counts)
        inner = (config.num_bessel, *config.radial_features)[-1]
        self.up = DegreeLinear(channels, hidden_lmax, **options)
        self.radial = normal(rngs, (inner, paths, channels), config.dtype)
        self.mix = normal(rngs, (paths, channels, channels), config.dtype)

    @property
    def radial_kernel(self) -> jax.Array:
        """Weights of the last layer of the radial network, `(inner, sum_l P_l, C)`, scaled."""
        scale = self.radial.shape[0] ** -0.5 / self.config.mean_neighbours
        return self.radial[...] * scale

    def __call__(
        self, mapped: jax.Array, harmonics: jax.Array, weights: jax.Array, edges: Edges
    ) -> jax.Array:
        """Sums over the edges of each atom.

        Args:
            mapped: V h of the atoms, by `up`, `(N, (hidden_lmax + 1)^2, C)`.
            harmonics: of the edges, `(E, (lmax + 1)^2)`, of unit mean square ("component").
            weights: radial functions R of the edges over the mean number of neighbours,
                `(E, sum_l P_l, C)`; 0 for padding.
            edges: from whom to whom.

        Returns:
            `(N, (lmax + 1)^2, C)`.
        """
        counts = natural_paths(self.config.lmax, self.hidden_lmax).counts
        sent = edges.of_senders(mapped)
        products = self._products(harmonics, sent)
        ends = np.cumsum([count * (2 * degree + 1) for degree, count in enumerate(counts)])[:-1]
        parts = zip(
            jnp.split(products, ends, axis=1),
            jnp.split(weights, np.cumsum(counts)[:-1], axis=1),
            strict=True,
        )
        most, messages = max(counts), []
        for degree, (part, weight) in enumerate(parts):
            by_path = part.reshape(*weight.shape[:2], 2 * degree + 1, weight.shape[2])
            by_order = jnp.swapaxes(by_path * weight[:, :, None], 1, 2)
            gap = ((0, 0), (0, 0), (0, most - by_order.shape[2]), (0, 0))
            messages.append(jnp.pad(by_order, gap))
        # filled up before the sum, whose result is then mixed as it is
        return self._mix(edges.sum(jnp.concatenate(messages, axis=1)), counts)

    def _products(self, harmonics: jax.Array, sent: jax.Array) -> jax.Array:
        """Of every edge, path by path: `(E, sum_l P_l (2 l + 1), C)`."""
        if self.hidden_lmax == 0:  # the one coupling of each degree is the product itself
            return harmonics[:, :, None] * sent
        table = jnp.asarray(natural_paths(self.config.lmax, self.hidden_lmax).table, sent.dtype)
        coupled = jnp.einsum("ei,ijq->eqj", harmonics, table, precision=self.precision)
        return jnp.einsum("eqj,ejc->eqc", coupled, sent, precision=self.precision)

    def _mix(self, total: jax.Array, counts: tuple[int, ...]) -> jax.Array:
        """Mixes paths and channels of each component: of `(N, (lmax + 1)^2, max P_l, C)`."""
        most = max(counts)
        kernels = []
        for degree, kernel in enumerate(jnp.split(self.mix[...], np.cumsum(counts)[:-1])):
            scaled = kernel * (len(kernel) * kernel.shape[1]) ** -0.5
            scaled = jnp.pad(scaled, ((0, most - len(kernel)), (0, 0), (0, 0)))
            kernels.append(jnp.broadcast_to(scaled, (2 * degree + 1, *scaled.shape)))
        kernel = jnp.concatenate(kernels)
        rows = total.reshape(*total.shape[:2], -1)
        return by_batch(rows, kernel.reshape(len(kernel), -1, kernel.shape[-1]), self.precision)

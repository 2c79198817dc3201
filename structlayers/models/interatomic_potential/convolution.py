"""The sum over neighbours: features of senders times harmonics of edges, by radial weights."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from structlayers.equivariant import clebsch_gordan
from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig
from structlayers.models.interatomic_potential.parts import DegreeLinear, PlainNetwork, normal


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

    .. math:: A_{n d l_3 m_3} = \sum_{p, c} W_{p c d} \frac{1}{\bar N} \sum_{e \to n} R_{p c}(r_e)
              \sum_{m_1 m_2} C^{l_3 m_3}_{l_1 m_1 l_2 m_2} Y_{l_1 m_1}(e) \, (V h)_{s(e) c l_2 m_2}

    over paths p = (l1, l2, l3) with an even sum, R a radial network, V a linear map by degree.

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
        channels, counts = config.channels, natural_paths(config.lmax, hidden_lmax).counts
        self.up = DegreeLinear(channels, hidden_lmax, **options)
        self.radial = PlainNetwork(
            (config.num_bessel, *config.radial_features, sum(counts) * channels), **options
        )
        self.mix = nnx.List(
            [normal(rngs, (count, channels, channels), config.dtype) for count in counts]
        )

    def __call__(
        self,
        features: jax.Array,
        harmonics: jax.Array,
        radial: jax.Array,
        senders: jax.Array,
        receivers: jax.Array,
    ) -> jax.Array:
        """Sums over the edges of each atom.

        Args:
            features: `(N, C, (hidden_lmax + 1)^2)`.
            harmonics: of the edges, `(E, (lmax + 1)^2)`, of unit mean square ("component").
            radial: radial functions times the cutoff, `(E, num_bessel)`; 0 for padding.
            senders: `(E,)`.
            receivers: `(E,)`, ascending.

        Returns:
            `(N, C, (lmax + 1)^2)`.
        """
        config, counts = self.config, natural_paths(self.config.lmax, self.hidden_lmax).counts
        table = natural_paths(config.lmax, self.hidden_lmax).table
        edges, channels = len(senders), config.channels
        table = jnp.asarray(table, features.dtype)
        coupled = jnp.einsum("ei,ijq->ejq", harmonics, table, precision=self.precision)
        sent = self.up(features)[senders]
        products = jnp.einsum("ecj,ejq->ecq", sent, coupled, precision=self.precision)
        weights = self.radial(radial).reshape(edges, channels, sum(counts))
        messages, path, place = [], 0, 0
        for degree, count in enumerate(counts):
            orders = 2 * degree + 1
            size = count * orders
            part = products[:, :, place : place + size].reshape(edges, channels, count, orders)
            part = part * weights[:, :, path : path + count, None]
            messages.append(part.reshape(edges, channels, size))
            path, place = path + count, place + size
        total = jax.ops.segment_sum(
            jnp.concatenate(messages, axis=2) / config.mean_neighbours,
            receivers,
            len(features),
            indices_are_sorted=True,
        )
        return self._mix(total, counts)

    def _mix(self, total: jax.Array, counts: tuple[int, ...]) -> jax.Array:
        """Mixes paths and channels of each degree: `(N, C, sum_l P_l (2 l + 1))`."""
        mixed, place = [], 0
        for degree, (count, kernel) in enumerate(zip(counts, self.mix, strict=True)):
            orders = 2 * degree + 1
            size = count * orders
            part = total[:, :, place : place + size].reshape(*total.shape[:2], count, orders)
            weights = kernel[...] * (count * self.config.channels) ** -0.5
            mixed.append(jnp.einsum("ncpm,pcd->ndm", part, weights, precision=self.precision))
            place += size
        return jnp.concatenate(mixed, axis=2)

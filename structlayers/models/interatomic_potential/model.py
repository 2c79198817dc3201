"""The potential: energy of atoms, and forces and stress as its derivatives."""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from structlayers._core.checks import is_known
from structlayers.equivariant.ops.radial import bessel_basis, polynomial_cutoff
from structlayers.models.interatomic_potential.config import InteratomicPotentialConfig
from structlayers.models.interatomic_potential.contractions import CONTRACTIONS
from structlayers.models.interatomic_potential.convolution import NeighbourSum
from structlayers.models.interatomic_potential.edges import Edges
from structlayers.models.interatomic_potential.graph import Graph
from structlayers.models.interatomic_potential.harmonics import edge_harmonics
from structlayers.models.interatomic_potential.parts import (
    DegreeLinear,
    PlainNetwork,
    normal,
)
from structlayers.models.interatomic_potential.radial import RadialNetworks


class Prediction(NamedTuple):
    """What a potential says of the structures of a graph; padding has 0.

    Attributes:
        energy: relative to the isolated atoms, `(G,)`.
        forces: `(N, 3)`, minus the derivative by the positions.
        stress: `(G, 3, 3)`, the derivative by a symmetric strain over the volume; None unless asked
            for.
    """

    energy: jax.Array
    forces: jax.Array
    stress: jax.Array | None = None


class Interaction(nnx.Module):
    r"""One layer: sum over neighbours, symmetric contraction, update of the features.

    .. math:: h' = U \, B(A(h)) + S_z \, h

    Args:
        config: sizes.
        lmax_in: largest degree of the features before.
        lmax_out: and after.
        rngs: keys for the weights.

    References:
        Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697,
        equations 7 to 12.
    """

    def __init__(
        self, config: InteratomicPotentialConfig, lmax_in: int, lmax_out: int, *, rngs: nnx.Rngs
    ):
        options = {"dtype": config.dtype, "precision": config.jax_precision, "rngs": rngs}
        self.shared = min(lmax_in, lmax_out)
        self.lmax_out = lmax_out
        self.neighbour_sum = NeighbourSum(config, lmax_in, rngs=rngs)
        self.contraction = CONTRACTIONS[config.contraction](config, lmax_out, rngs=rngs)
        self.update = DegreeLinear(config.channels, lmax_out, **options)
        self.skip = DegreeLinear(
            config.channels, self.shared, num_species=len(config.species), **options
        )

    def __call__(
        self, features: jax.Array, one_hot: jax.Array, *edges: Any, by_element: bool = False
    ) -> jax.Array:
        """Features `(N, (lmax_out + 1)^2, C)`.

        Args:
            features: of the atoms, or where `by_element` of the elements, `(Z, 1, C)`.
            one_hot: the elements of the atoms, `(N, Z)`.
            *edges: as `NeighbourSum` takes them.
            by_element: whether atoms of an element have the same features still.
        """
        if by_element:
            mapped, kept = self._of_elements(features[:, 0], one_hot)
        else:
            mapped = self.neighbour_sum.up(features)
            kept = self.skip(features[:, : (self.shared + 1) ** 2], one_hot)
        summed = jnp.swapaxes(self.neighbour_sum(mapped, *edges), 1, 2)
        message = jnp.swapaxes(self.contraction(summed, one_hot), 1, 2)
        missing = (self.lmax_out + 1) ** 2 - kept.shape[1]
        return self.update(message) + jnp.pad(kept, ((0, 0), (0, missing), (0, 0)))

    def _of_elements(self, features: jax.Array, one_hot: jax.Array) -> list[jax.Array]:
        """Both linear maps of features `(Z, C)`, for every atom, `(N, 1, C)` each."""
        skip = self.skip.kernel[...][:, 0]
        up = jnp.broadcast_to(self.neighbour_sum.up.kernel[...], skip.shape)
        kernels = jnp.concatenate([up, skip], axis=2) * len(up[0]) ** -0.5
        # of so few rows the product is a sum
        both = jnp.sum(features[:, :, None] * kernels, axis=1)
        return jnp.split(jnp.matmul(one_hot, both, precision="highest")[:, None], 2, axis=2)


class InteratomicPotential(nnx.Module):
    r"""A message-passing potential with symmetric contractions of many neighbours.

    .. math:: E = \sum_n \Big( E^0_{z_n} + \mathrm{shift} + \mathrm{scale} \sum_t
              \mathcal R_t(h^{(t)}_{n 0 0}) \Big), \qquad
              F = -\partial E / \partial x, \qquad \sigma = V^{-1} \, \partial E / \partial \epsilon

    `h^(0)` is an embedding of the element, each `Interaction` gives the next features, and `R_t`
    reads their invariants: linear, a network with one hidden layer at the last. E is invariant
    under rotations, inversion, translations and the order of the atoms, and smooth where atoms
    enter or leave the cutoff.

    Args:
        config: sizes and options.
        rngs: keys for the weights.

    Example:
        >>> import numpy as np
        >>> from structlayers.models.interatomic_potential import Structure, make_graph
        >>> config = InteratomicPotentialConfig((1, 8), channels=2, lmax=1, num_interactions=1)
        >>> potential = InteratomicPotential(config, rngs=nnx.Rngs(0))
        >>> water = Structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        >>> graph = make_graph([water], config.species, config.cutoff)
        >>> found = nnx.jit(InteratomicPotential.predict)(potential, graph)
        >>> found.energy.shape, found.forces.shape, bool(jnp.abs(found.forces.sum(0)).max() < 1e-5)
        ((1,), (3, 3), True)

    References:
        Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697, section 4.
    """

    def __init__(self, config: InteratomicPotentialConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = normal(rngs, (len(config.species), config.channels), config.dtype)
        last = config.num_interactions - 1
        lmaxs = [0, *[config.hidden_lmax] * last, 0]
        self.interactions = nnx.List(
            [
                Interaction(config, lmax_in, lmax_out, rngs=rngs)
                for lmax_in, lmax_out in pairwise(lmaxs)
            ]
        )
        options = {"dtype": config.dtype, "precision": config.jax_precision, "rngs": rngs}
        inner = (config.num_bessel, *config.radial_features)
        self.radial = RadialNetworks(config.num_interactions, inner, **options)
        linear = [PlainNetwork((config.channels, 1), **options) for _ in range(last)]
        sizes = (config.channels, config.readout_features, 1)
        self.readouts = nnx.List([*linear, PlainNetwork(sizes, **options)])

    def __call__(self, graph: Graph) -> jax.Array:
        """Energy of each structure relative to its isolated atoms, `(G,)`.

        Raises:
            ValueError: a graph made for other elements, or with a smaller cutoff.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        return self._by_graph(graph, self._atom_energies(graph, self._vectors(graph)))

    def isolated_energy(self, graph: Graph) -> jax.Array:
        """Energy of the isolated atoms of each structure, `(G,)`.

        Some thousand electronvolt: float32 keeps them to about a millielectronvolt, which is why no
        other number has them inside.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        values = self.config.atomic_energies or (0.0,) * len(self.config.species)
        energies = jnp.asarray(values, graph.positions.dtype)[graph.species]
        return self._by_graph(graph, jnp.where(graph.atom_mask, energies, 0))

    def predict(self, graph: Graph, *, stress: bool = False) -> Prediction:
        """Energy and forces, and the stress where asked.

        Args:
            graph: one graph; flatten a stack first.
            stress: whether to divide the derivative by strain by the volume.

        Returns:
            The energy relative to the isolated atoms, the forces, and the stress or None.

        Raises:
            ValueError: stress is asked for, and a structure has no cell (where cells are traced,
                its stress is not finite); or a graph made for other elements, or with a smaller
                cutoff.
        """
        graph = jax.tree.map(jnp.asarray, graph)
        volume = jnp.abs(jnp.linalg.det(graph.cell))
        if stress and is_known(volume) and bool(jnp.any((volume == 0) & graph.graph_mask)):
            raise ValueError("stress needs a cell of volume in every structure, got one without")

        def total(
            positions: jax.Array, strain: jax.Array | None = None
        ) -> tuple[jax.Array, jax.Array]:
            vectors = self._vectors(graph, positions, strain)
            energy = self._by_graph(graph, self._atom_energies(graph, vectors))
            return energy.sum(), energy

        if not stress:
            slopes, energy = jax.grad(total, has_aux=True)(graph.positions)
            return Prediction(energy, -slopes)
        derivative = jax.grad(total, argnums=(0, 1), has_aux=True)
        slopes, energy = derivative(graph.positions, jnp.zeros_like(graph.cell))
        by_strain = jnp.where(graph.graph_mask[:, None, None], slopes[1], 0)
        divisor = jnp.where(graph.graph_mask, volume, 1)[:, None, None]
        return Prediction(energy, -slopes[0], by_strain / divisor)

    def _require_own(self, graph: Graph) -> None:
        elements, cutoff = self.config.species, self.config.cutoff
        if graph.elements not in (None, elements):
            raise ValueError(
                f"graph must be made for the elements {elements} of the potential, "
                f"got one for {graph.elements}"
            )
        if graph.cutoff is not None and graph.cutoff < cutoff:
            raise ValueError(
                f"graph must hold the neighbours within the potential's cutoff of {cutoff}, "
                f"got those within {graph.cutoff}"
            )

    def _vectors(
        self,
        graph: Graph,
        positions: jax.Array | None = None,
        strain: jax.Array | None = None,
    ) -> jax.Array:
        """From receiver to sender, `(E, 3)`; padding stands at the cutoff."""
        self._require_own(graph)
        positions = graph.positions if positions is None else positions
        edges = Edges.of(graph)
        cell = edges.of_receivers(graph.cell[graph.atom_graph])
        shifts = jnp.sum(graph.images[:, :, None] * cell, axis=1)
        vectors = edges.of_senders(positions) - edges.of_receivers(positions) + shifts
        if strain is not None:
            symmetric = (strain + jnp.swapaxes(strain, -1, -2)) / 2
            turn = edges.of_receivers(symmetric[graph.atom_graph])
            vectors = vectors + jnp.sum(vectors[:, :, None] * turn, axis=1)
        aside = jnp.asarray([self.config.cutoff, 0.0, 0.0], vectors.dtype)
        return jnp.where(graph.edge_mask[:, None], vectors, aside[None])

    def _atom_energies(self, graph: Graph, vectors: jax.Array) -> jax.Array:
        """Of every atom relative to the isolated one, `(N,)`; 0 for padding."""
        config = self.config
        one_hot = jax.nn.one_hot(graph.species, len(config.species), dtype=config.dtype)
        distances = jnp.linalg.norm(vectors, axis=-1)
        kernels = [interaction.neighbour_sum.radial_kernel for interaction in self.interactions]
        # 0 at the cutoff, and so for padding
        weights = self.radial(
            jnp.where(graph.edge_mask, distances, config.cutoff), self._radial_basis, kernels
        )
        harmonics = edge_harmonics(vectors / distances[:, None], config.lmax, config.degree_scale)
        edges = Edges.of(graph)
        features, total = self.embedding[...][:, None], jnp.zeros_like(one_hot[:, 0])
        layers = zip(self.interactions, self.readouts, weights, strict=True)
        for index, (interaction, readout, weight) in enumerate(layers):
            features = interaction(
                features, one_hot, harmonics, weight, edges, by_element=index == 0
            )
            total = total + readout(features[:, 0])[:, 0]
        return jnp.where(graph.atom_mask, config.scale * total + config.shift, 0)

    def _radial_basis(self, distances: jax.Array) -> jax.Array:
        """Bessel functions times the envelope, `(..., num_bessel)`."""
        config = self.config
        envelope = polynomial_cutoff(distances, config.cutoff, p=config.cutoff_power)
        return bessel_basis(distances, config.num_bessel, config.cutoff) * envelope[..., None]

    def _by_graph(self, graph: Graph, values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, graph.atom_graph, graph.num_graphs)

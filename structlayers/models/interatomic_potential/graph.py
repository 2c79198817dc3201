"""Graphs of atoms with static shapes: one structure or many, padded, never truncated."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.models.interatomic_potential.neighbours import NeighbourList, neighbour_list
from structlayers.models.interatomic_potential.structure import Structure, species_of


class CapacityError(ValueError):
    """More atoms, edges or structures than a padded graph has places for."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Graph:
    """G structures with N atoms and E edges in all, a pytree; the places left over are padding.

    An edge points from its sender, the neighbour, to its receiver. Arrays may have leading axes,
    the same in all of them: a stack of graphs, which `flatten` makes one graph again.

    Attributes:
        positions: `(N, 3)`.
        species: `(N,)` int32, the element's place in the model's list.
        atom_graph: `(N,)` int32, the structure of each atom; 0 for padding.
        atom_mask: `(N,)`, False for padding.
        senders: `(E,)` int32.
        receivers: `(E,)` int32.
        images: `(E, 3)`; the neighbour stands at `positions[sender] + image @ cell`.
        edge_mask: `(E,)`, False for padding, edges from an atom to itself; receivers ascend.
        reverse: `(E,)` int32, place of the edge of the same pair the other way; padding has its
            own.
        cell: `(G, 3, 3)`, rows are lattice vectors; 0 where there is none.
        graph_mask: `(G,)`, False for padding.
        num_slots: K, where edges stand in K places for each atom, `E = N K`; None where they stand
            one after the other.
        elements: atomic numbers that `species` are places in; None is not known.
        cutoff: largest distance of neighbours; None is not known. A potential refuses a graph of
            other elements or of a smaller cutoff than its own.
    """

    positions: Any
    species: Any
    atom_graph: Any
    atom_mask: Any
    senders: Any
    receivers: Any
    images: Any
    edge_mask: Any
    reverse: Any
    cell: Any
    graph_mask: Any
    num_slots: int | None = dataclasses.field(default=None, metadata={"static": True})
    elements: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    cutoff: float | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def num_atoms(self) -> int:
        """Places for atoms, N."""
        return self.species.shape[-1]

    @property
    def num_edges(self) -> int:
        """Places for edges, E."""
        return self.senders.shape[-1]

    @property
    def num_graphs(self) -> int:
        """Places for structures, G."""
        return self.graph_mask.shape[-1]

    def with_edges(self, num_edges: int) -> "Graph":
        """The same graph of NumPy arrays with a number of places for edges, one after the other.

        Raises:
            CapacityError: fewer places than edges; none is left out.
        """
        found = int(np.sum(self.edge_mask))
        _capacity("num_edges", "edges", found, num_edges)
        last = np.full(num_edges, self.num_atoms - 1, np.int32)
        return self._placed(np.arange(found), last, None)

    def with_slots(self, num_slots: int) -> "Graph":
        """The same graph of NumPy arrays, or stack of such, with K places for edges of each atom.

        A sum over neighbours is then a sum over an axis.

        Raises:
            CapacityError: an atom has more neighbours than places; none is left out.
        """
        if self.species.ndim > 1:
            rows = [
                jax.tree.map(lambda leaf, i=i: leaf[i], self).with_slots(num_slots)
                for i in range(len(self.species))
            ]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        receivers = np.asarray(self.receivers)[np.asarray(self.edge_mask)]
        counts = np.bincount(receivers, minlength=self.num_atoms)
        _capacity("num_slots", "neighbours of one atom", int(counts.max()), num_slots)
        slot = np.arange(len(receivers)) - np.repeat(np.cumsum(counts) - counts, counts)
        own = np.repeat(np.arange(self.num_atoms, dtype=np.int32), num_slots)
        return self._placed(receivers * num_slots + slot, own, num_slots)

    def suited_slots(self, *, most: float = 2.0, headroom: float = 1.0) -> int | None:
        """Places by atom for its neighbours, or None where that takes too much memory.

        Args:
            most: N K may be this multiple of the edges; of the most edges that a graph of a stack
                has.
            headroom: the places are this multiple of the most neighbours that an atom has.
        """
        receivers, mask = np.atleast_2d(self.receivers, self.edge_mask)
        rows = [row[on] for row, on in zip(receivers, mask, strict=True)]
        neighbours = max(np.bincount(row, minlength=1).max() for row in rows)
        slots = max(1, int(np.ceil(headroom * neighbours)))
        edges = headroom * max(map(len, rows))
        return slots if self.num_atoms * slots <= most * edges else None

    def _placed(self, places: np.ndarray, own: np.ndarray, num_slots: int | None) -> "Graph":
        """Edges at some places; `own` is the atom of an edge of padding at each place."""
        mask = np.asarray(self.edge_mask)
        order = np.cumsum(mask) - 1
        reverse = np.arange(len(own), dtype=np.int32)
        reverse[places] = places[order[np.asarray(self.reverse)[mask]]]
        senders, receivers, images = own.copy(), own.copy(), np.zeros((len(own), 3))
        edge_mask = np.zeros(len(own), bool)
        senders[places], receivers[places] = self.senders[mask], self.receivers[mask]
        images[places], edge_mask[places] = self.images[mask], True
        return dataclasses.replace(
            self,
            senders=senders,
            receivers=receivers,
            images=images.astype(self.images.dtype),
            edge_mask=edge_mask,
            reverse=reverse,
            num_slots=num_slots,
        )

    def flatten(self) -> "Graph":
        """One graph of a stack with one leading axis `B`: B N atoms, B E edges, B G structures.

        Raises:
            ValueError: another number of leading axes.
        """
        if self.species.ndim != 2:
            raise ValueError(
                f"a stack of graphs must have one leading axis, got {self.species.shape[:-1]}"
            )
        step = jnp.arange(self.species.shape[0], dtype=self.species.dtype)[:, None]
        shifted = dataclasses.replace(
            self,
            atom_graph=self.atom_graph + self.num_graphs * step,
            senders=self.senders + self.num_atoms * step,
            receivers=self.receivers + self.num_atoms * step,
            reverse=self.reverse + self.num_edges * step,
        )
        return jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), shifted)


def make_graph(
    structures: Sequence[Structure],
    species: Sequence[int],
    cutoff: float,
    *,
    num_atoms: int | None = None,
    num_edges: int | None = None,
    num_graphs: int | None = None,
    dtype: np.dtype | type = np.float32,
) -> Graph:
    """One padded graph of numpy arrays from structures, with their neighbour lists.

    Args:
        structures: at least one.
        species: atomic numbers of the model's elements, ascending.
        cutoff: atoms closer than this are neighbours.
        num_atoms: places for atoms, N; None is as many as there are.
        num_edges: places for edges, E; None is as many as there are.
        num_graphs: places for structures, G; None is as many as there are.
        dtype: of positions, images and cells.

    Returns:
        The graph.

    Raises:
        CapacityError: more atoms, edges or structures than places; nothing is cut off.
        ValueError: no structure, an element never seen in training, or atoms on top of each other.

    Example:
        >>> pair = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]])
        >>> graph = make_graph([pair, pair], (1,), 5.0, num_edges=6)
        >>> graph.receivers.tolist(), graph.edge_mask.sum().item()
        ([0, 1, 2, 3, 3, 3], 4)
        >>> make_graph([pair, pair], (1,), 5.0, num_edges=3)
        Traceback (most recent call last):
        ...
        structlayers.models.interatomic_potential.graph.CapacityError: 4 edges do not fit into ...
    """
    if not structures:
        raise ValueError("structures must hold at least one, got none")
    lists = [neighbour_list(structure, cutoff) for structure in structures]
    return _pack(
        structures,
        lists,
        species,
        cutoff,
        _capacity("num_atoms", "atoms", sum(map(len, structures)), num_atoms),
        _capacity("num_edges", "edges", sum(len(edges.senders) for edges in lists), num_edges),
        _capacity("num_graphs", "structures", len(structures), num_graphs),
        np.dtype(dtype),
    )


def _capacity(name: str, what: str, found: int, places: int | None) -> int:
    if places is not None and found > places:
        raise CapacityError(f"{found} {what} do not fit into {name} = {places} places")
    return found if places is None else places


def _pack(
    structures: Sequence[Structure],
    lists: Sequence[NeighbourList],
    species: Sequence[int],
    cutoff: float,
    num_atoms: int,
    num_edges: int,
    num_graphs: int,
    dtype: np.dtype,
) -> Graph:
    sizes = np.array([len(structure) for structure in structures])
    starts = np.cumsum(sizes) - sizes
    shifted = list(zip(lists, starts, strict=True))
    first = np.cumsum([0, *(len(edges.senders) for edges in lists)])[:-1]
    indices = [species_of(s.numbers, species) for s in structures]
    cells = np.stack([np.zeros((3, 3)) if s.cell is None else s.cell for s in structures])
    positions = np.concatenate([s.positions for s in structures]).astype(dtype)
    exact = Graph(
        positions=_padded(positions, num_atoms),
        species=_padded(np.concatenate(indices), num_atoms),
        atom_graph=_padded(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), num_atoms),
        atom_mask=np.arange(num_atoms) < sizes.sum(),
        senders=np.concatenate([e.senders + start for e, start in shifted]).astype(np.int32),
        receivers=np.concatenate([e.receivers + start for e, start in shifted]).astype(np.int32),
        images=np.concatenate([edges.images for edges in lists]).astype(dtype),
        edge_mask=np.ones(sum(len(edges.senders) for edges in lists), bool),
        reverse=np.concatenate([e.reverse + start for e, start in zip(lists, first, strict=True)]),
        cell=_padded(cells.astype(dtype), num_graphs),
        graph_mask=np.arange(num_graphs) < len(structures),
        elements=tuple(map(int, species)),
        cutoff=float(cutoff),
    )
    return exact.with_edges(num_edges)


def _padded(values: np.ndarray, count: int, rest: int = 0) -> np.ndarray:
    """The values, then `rest` in the places left over."""
    result = np.full((count, *values.shape[1:]), rest, values.dtype)
    result[: len(values)] = values
    return result


def stack_graphs(
    structures: Sequence[Structure],
    species: Sequence[int],
    cutoff: float,
    *,
    num_atoms: int | None = None,
    num_edges: int | None = None,
    dtype: np.dtype | type = np.float32,
) -> Graph:
    """A stack of graphs of one structure each, `(B, ...)` numpy arrays: a data set on the device.

    `jax.tree.map(lambda a: a[index], stack).flatten()` is then a batch of static shapes.

    Args:
        structures: at least one.
        species: atomic numbers of the model's elements, ascending.
        cutoff: atoms closer than this are neighbours.
        num_atoms: places for the atoms of one structure; None is the most that one has.
        num_edges: places for the edges of one structure; None is the most that one has.
        dtype: of positions, images and cells.

    Returns:
        The stack; every array has the leading axis B.

    Raises:
        CapacityError: a structure with more atoms or edges than places; nothing is cut off.
        ValueError: as in `make_graph`.

    Example:
        >>> pair = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]])
        >>> single = Structure([1], [[0, 0, 0]])
        >>> stack = stack_graphs([pair, single], (1,), 5.0)
        >>> stack.positions.shape, stack.edge_mask.sum(axis=1).tolist()
        ((2, 2, 3), [2, 0])
    """
    if not structures:
        raise ValueError("structures must hold at least one, got none")
    lists = [neighbour_list(structure, cutoff) for structure in structures]
    atoms = _capacity("num_atoms", "atoms of one structure", max(map(len, structures)), num_atoms)
    most = max(len(edges.senders) for edges in lists)
    edges = _capacity("num_edges", "edges of one structure", most, num_edges)
    graphs = [
        _pack([structure], [found], species, cutoff, atoms, edges, 1, np.dtype(dtype))
        for structure, found in zip(structures, lists, strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *graphs)

"""Neighbour lists: all pairs of atoms within a cutoff, periodic images included."""

import itertools
from typing import NamedTuple

import numpy as np

from structlayers.models.interatomic_potential.structure import Structure


class NeighbourList(NamedTuple):
    """Directed edges, sorted by receiver, then sender, then image.

    Attributes:
        senders: `(E,)` int32, the neighbour of each edge.
        receivers: `(E,)` int32, the atom whose neighbour it is.
        images: `(E, 3)` int32; the neighbour stands at `positions[sender] + image @ cell`.
        reverse: `(E,)` int32, place of the edge of the same pair from receiver to sender.
    """

    senders: np.ndarray
    receivers: np.ndarray
    images: np.ndarray
    reverse: np.ndarray


def neighbour_list(
    structure: Structure, cutoff: float, *, min_distance: float = 0.1
) -> NeighbourList:
    """All pairs of atoms that are closer than a cutoff.

    An atom is its own neighbour only through a periodic image. Atoms may lie outside the cell.

    Args:
        structure: the atoms.
        cutoff: largest distance, exclusive.
        min_distance: atoms as close as this are on top of each other, which is an error.

    Returns:
        The edges; each pair gives two.

    Raises:
        ValueError: a cutoff that is not positive, or atoms on top of each other.

    Example:
        >>> cube = Structure([1], [[0, 0, 0]], cell=2 * np.eye(3), periodic=(True, True, True))
        >>> [len(neighbour_list(cube, cutoff).senders) for cutoff in (1.9, 2.1, 2.9)]
        [0, 6, 18]
    """
    from scipy.spatial import KDTree

    if not cutoff > 0:
        raise ValueError(f"cutoff must be positive, got {cutoff}")
    positions = structure.positions
    atoms, images, places = _images_within(structure, cutoff)
    # a little further than the cutoff: what counts is the distance below
    found = KDTree(positions).query_ball_tree(KDTree(places), cutoff * (1 + 1e-9))
    counts = [len(row) for row in found]
    receivers = np.repeat(np.arange(len(found)), counts)
    near = np.fromiter(itertools.chain.from_iterable(found), np.int64, sum(counts))
    senders, offsets = atoms[near], images[near]
    itself = (senders == receivers) & ~offsets.any(axis=1)
    # each step only changes sign from an edge to its reverse: both are within the cutoff, or none
    apart = positions[senders] - positions[receivers]
    if structure.cell is not None:
        apart = apart + offsets.astype(float) @ structure.cell
    distances = np.linalg.norm(apart, axis=1)
    close = np.flatnonzero(~itself & (distances <= min_distance))
    if close.size:
        first = close[0]
        raise ValueError(
            f"atoms {receivers[first]} and {senders[first]} are on top of each other: their "
            f"distance is {distances[first]:.3g}, at most min_distance = {min_distance}"
        )
    kept = np.flatnonzero(~itself & (distances < cutoff))
    senders, receivers, offsets = senders[kept], receivers[kept], offsets[kept]
    order = np.lexsort((*offsets.T[::-1], senders, receivers))
    senders, receivers, offsets = senders[order], receivers[order], offsets[order]
    reverse = np.empty(len(order), np.int32)
    # sorted by what the reverse edge is sorted by
    reverse[np.lexsort((*-offsets.T[::-1], receivers, senders))] = np.arange(len(order))
    return NeighbourList(
        senders.astype(np.int32), receivers.astype(np.int32), offsets.astype(np.int32), reverse
    )


def _images_within(
    structure: Structure, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms and images that can be within the cutoff of an atom: indices, images, places.

    Lattice planes along vector k are 1 / |row k of the inverse cell| apart, so an image whose
    fractional coordinate k leaves the range of the atoms' by more than cutoff times that row's
    length is too far.
    """
    positions = structure.positions
    count = len(structure)
    if not any(structure.periodic):
        return np.arange(count), np.zeros((count, 3), np.int64), positions
    assert structure.cell is not None
    inverse = np.linalg.inv(structure.cell)
    fractions = positions @ inverse  # n 3
    reach = cutoff * np.linalg.norm(inverse, axis=0)
    low, high = fractions.min(axis=0) - reach, fractions.max(axis=0) + reach
    # images k with low <= fraction + k <= high for some atom
    first = np.ceil(low - fractions.max(axis=0)).astype(int)
    last = np.floor(high - fractions.min(axis=0)).astype(int)
    ranges = [range(first[k], last[k] + 1) if structure.periodic[k] else range(1) for k in range(3)]
    images = np.array(list(itertools.product(*ranges)))  # m 3
    shifted = fractions[None] + images[:, None]  # m n 3
    inside = ((shifted >= low) & (shifted <= high)).all(axis=2)
    which, atoms = np.nonzero(inside)
    return atoms, images[which], positions[atoms] + images[which] @ structure.cell

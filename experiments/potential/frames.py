"""Frames as arrays of static shapes, and what a potential takes from those it is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from experiments.data.molecules import MoleculeSet
from structlayers.models.interatomic_potential import Graph, Structure, stack_graphs


class Frames(NamedTuple):
    """F frames, each a graph of its own, with reference values.

    Attributes:
        graph: a stack of F graphs of one structure each.
        energy: relative to the isolated atoms, `(F,)`.
        forces: `(F, N, 3)`.
    """

    graph: Graph
    energy: jax.Array | np.ndarray
    forces: jax.Array | np.ndarray

    @property
    def size(self) -> int:
        """F."""
        return len(self.energy)


def take(frames: Frames, index: jax.Array | np.ndarray) -> Frames:
    """Some of the frames."""
    return jax.tree.map(lambda leaf: leaf[index], frames)


@dataclass(frozen=True)
class Statistics:
    """Of the training frames.

    Attributes:
        species: atomic numbers, ascending.
        atomic_energies: of the isolated atoms; where none is published, the least squares.
        shift: mean energy by atom relative to the isolated atoms.
        scale: root mean square of the forces' components.
        mean_neighbours: edges by atom.
    """

    species: tuple[int, ...]
    atomic_energies: tuple[float, ...]
    shift: float
    scale: float
    mean_neighbours: float


def split(count: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the frames to train on and of those to validate on, drawn without replacement."""
    order = np.random.default_rng(seed).permutation(count)
    return order[validation:], order[:validation]


def _compositions(structures: Sequence[Structure], species: Sequence[int]) -> np.ndarray:
    """Atoms of every element in every frame: `(F, Z)`."""
    return np.array([[np.sum(s.numbers == z) for z in species] for s in structures], float)


def interaction_energies(
    structures: Sequence[Structure], species: Sequence[int], atomic_energies: Sequence[float]
) -> np.ndarray:
    """Energies relative to the isolated atoms, `(F,)`, subtracted in float64."""
    energies = np.array([s.energy for s in structures], np.float64)
    return energies - _compositions(structures, species) @ np.asarray(atomic_energies)


def statistics(
    structures: Sequence[Structure], atomic_energies: Mapping[int, float], cutoff: float
) -> Statistics:
    """What the potential takes from the training frames."""
    species = sorted({int(z) for s in structures for z in s.numbers})
    if atomic_energies:
        isolated = [atomic_energies[z] for z in species]
    else:
        energies = np.array([s.energy for s in structures], np.float64)
        isolated = np.linalg.lstsq(_compositions(structures, species), energies)[0].tolist()
    atoms = np.array([len(s) for s in structures])
    forces = np.concatenate([s.forces for s in structures])
    edges = stack_graphs(structures, species, cutoff).edge_mask.sum()
    return Statistics(
        tuple(species),
        tuple(map(float, isolated)),
        shift=float(np.mean(interaction_energies(structures, species, isolated) / atoms)),
        scale=float(np.sqrt(np.mean(forces**2))),
        mean_neighbours=float(edges / atoms.sum()),
    )


def make_frames(
    structures: Sequence[Structure], found: Statistics, cutoff: float, dtype: str
) -> Frames:
    """The frames as arrays, on the device."""
    graph = stack_graphs(structures, found.species, cutoff, dtype=np.dtype(dtype))
    slots = graph.suited_slots()
    if slots is not None:
        graph = graph.with_slots(slots)
    forces = np.zeros(graph.positions.shape, dtype)
    for row, structure in zip(forces, structures, strict=True):
        row[: len(structure)] = structure.forces
    energies = interaction_energies(structures, found.species, found.atomic_energies)
    return jax.device_put(Frames(graph, energies.astype(dtype), forces))


@dataclass(frozen=True)
class Prepared:
    """One set, ready for training.

    Attributes:
        found: statistics of the training frames.
        train: frames to train on.
        validation: frames to validate on.
        tests: test sets by name.
    """

    found: Statistics
    train: Frames
    validation: Frames
    tests: dict[str, Frames]

    @property
    def most_frames(self) -> int:
        """Of the sets that are predicted in the end."""
        return max(frames.size for frames in (self.train, *self.tests.values()))


def prepare(
    molecules: MoleculeSet, *, validation: int, seed: int, cutoff: float, dtype: str
) -> Prepared:
    """Splits the training frames and turns all sets into arrays.

    Raises:
        ValueError: no frame would be left to train on, a frame has no energy or forces, or a test
            set holds an element that the training frames do not.
    """
    for name, structures in {"train": molecules.train, **molecules.tests}.items():
        for index, structure in enumerate(structures):
            if structure.energy is None or structure.forces is None:
                raise ValueError(f"frame {index} of {name!r} must have energy and forces")
    if not 0 < validation < len(molecules.train):
        raise ValueError(
            f"validation_frames must be between 1 and {len(molecules.train) - 1}, got {validation}"
        )
    train, rest = (
        [molecules.train[i] for i in index]
        for index in split(len(molecules.train), validation, seed)
    )
    found = statistics(train, molecules.atomic_energies, cutoff)
    return Prepared(
        found,
        make_frames(train, found, cutoff, dtype),
        make_frames(rest, found, cutoff, dtype),
        {name: make_frames(test, found, cutoff, dtype) for name, test in molecules.tests.items()},
    )

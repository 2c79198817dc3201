import itertools
from typing import Any

import ase
import ase.neighborlist
import numpy as np
import pytest

from structlayers.models.interatomic_potential import Structure, neighbour_list
from tests.models.interatomic_potential.molecules import cluster, crystal


def by_brute_force(structure, cutoff, reach):
    """Every pair with every image up to `reach` cells away, one at a time."""
    images = [range(-reach, reach + 1) if periodic else range(1) for periodic in structure.periodic]
    cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
    edges = set()
    for image in itertools.product(*images):
        for i, j in itertools.product(range(len(structure)), repeat=2):
            gap = structure.positions[j] + np.array(image) @ cell - structure.positions[i]
            if (i != j or any(image)) and np.linalg.norm(gap) < cutoff:
                edges.add((i, j, *image))
    return edges


def edges_of(structure, cutoff):
    found = neighbour_list(structure, cutoff)
    rows = np.column_stack([found.receivers, found.senders, found.images])
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert rows.tolist() == sorted(rows.tolist())
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("periodic", list(itertools.product([False, True], repeat=3)), ids=str)
def test_all_pairs_and_images(periodic):
    base = crystal(seed=3)
    structure = Structure(base.numbers, base.positions, cell=base.cell, periodic=periodic)
    assert edges_of(structure, 4.0) == by_brute_force(structure, 4.0, 3)


@pytest.mark.parametrize("seed", range(3))
def test_atoms_outside_the_cell_and_a_flat_cell(seed):
    rng = np.random.default_rng(seed)
    base = crystal(seed=seed)
    away = rng.integers(-2, 3, (len(base), 3)) @ base.cell
    flat = base.cell * np.array([[1.0], [1.0], [4.0]])
    for cell in (base.cell, flat):
        structure = Structure(
            base.numbers, base.positions + away, cell=cell, periodic=(True, True, True)
        )
        assert edges_of(structure, 3.5) == by_brute_force(structure, 3.5, 7)


def test_same_edges_as_ase():
    structure = crystal(seed=5)
    atoms = ase.Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.periodic
    )
    i, j, images = ase.neighborlist.neighbor_list("ijS", atoms, 5.0)
    wanted = {(a, b, *s) for a, b, s in zip(i.tolist(), j.tolist(), images.tolist(), strict=True)}
    assert edges_of(structure, 5.0) == wanted
    assert edges_of(Structure.from_ase(atoms), 5.0) == wanted


def test_every_edge_has_its_reverse():
    edges = edges_of(crystal(seed=1), 4.0)
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in edges} == edges


def test_a_lone_atom_has_none():
    found = neighbour_list(Structure([1], [[0.0, 0, 0]]), 5.0)
    assert found.senders.shape == (0,)
    assert found.images.shape == (0, 3)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (
            Structure([1, 1, 1], [[0.0, 0, 0], [2, 0, 0], [2, 0.01, 0]]),
            "atoms 1 and 2 are on top of each other: their distance is 0.01, at most min_distance",
        ),
        (
            Structure([1, 1], [[0.0, 0, 0], [0, 0, 2]], 2 * np.eye(3), (True, True, True)),
            "atoms 0 and 1 are on top of each other: their distance is 0,",
        ),
    ],
)
def test_atoms_on_top_of_each_other(structure, message):
    with pytest.raises(ValueError, match=message):
        neighbour_list(structure, 3.0)


def test_bad_cutoff():
    with pytest.raises(ValueError, match=r"cutoff must be positive, got 0"):
        neighbour_list(cluster(), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": []}, "numbers must be at least one atomic number"),
        ({"numbers": [1.0, 6.0]}, "numbers must be at least one atomic number.*float64"),
        ({"positions": [[0.0, 0, 0]]}, r"positions must have shape \(2, 3\), got \(1, 3\)"),
        ({"positions": [[0.0, 0, 0], [np.nan, 0, 0]]}, r"positions must be finite; atom 1 is at"),
        ({"forces": np.zeros((2, 2))}, r"forces must have shape \(2, 3\), got \(2, 2\)"),
        ({"periodic": (True, False, False)}, "cell must span a volume .*got None"),
        (
            {"periodic": (True, True, True), "cell": np.diag([1.0, 1, 0])},
            "cell must span a volume where the structure is periodic",
        ),
    ],
)
def test_structures_that_are_refused(change, message):
    values: dict[str, Any] = {"numbers": [1, 6], "positions": [[0.0, 0, 0], [1, 0, 0]], **change}
    with pytest.raises(ValueError, match=message):
        Structure(**values)


def test_every_edge_has_its_reverse_at_the_very_cutoff():
    """Rounding never leaves one of the two edges of a pair outside."""
    for seed in range(3):
        structure = crystal(seed)
        found = neighbour_list(structure, 4.0)
        apart = structure.positions[found.senders] - structure.positions[found.receivers]
        distances = np.linalg.norm(apart + found.images @ structure.cell, axis=1)
        for cutoff in np.unique(distances)[::7]:
            for around in (np.nextafter(cutoff, 0), cutoff, np.nextafter(cutoff, 9)):
                edges = neighbour_list(structure, around)
                np.testing.assert_array_equal(edges.receivers[edges.reverse], edges.senders)
                np.testing.assert_array_equal(edges.senders[edges.reverse], edges.receivers)
                np.testing.assert_array_equal(edges.images[edges.reverse], -edges.images)

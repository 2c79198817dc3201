import numpy as np
import pytest

from experiments.data import molecules
from experiments.data.files import DataError


def test_synthetic_forces_are_derivatives():
    """A step against the forces changes the energy by their square, to second order."""
    frames = molecules.synthetic_molecules(count=2)
    again = molecules.synthetic_molecules(count=2)
    np.testing.assert_array_equal(frames.train[0].positions, again.train[0].positions)
    structure, step = frames.tests["hot"][1], 1e-6
    for sign in (1, -1):
        moved = structure.positions + sign * step * structure.forces
        energy, start = (molecules.morse(x)[0] for x in (moved, structure.positions))
        slope = (energy - start) / step
        assert slope == pytest.approx(-sign * np.sum(structure.forces**2), rel=1e-4)


@pytest.mark.data
def test_acac(data_dir):
    found = molecules.load_molecules("acac")
    assert len(found.train) == 500
    assert {name: len(frames) for name, frames in found.tests.items()} == {"300K": 650, "600K": 650}
    assert sorted(found.atomic_energies) == [1, 6, 8]
    assert all(len(structure) == 15 for structure in found.train)


@pytest.mark.data
def test_bpa_holds_out_what_was_trained_on(data_dir):
    found = molecules.load_molecules("3bpa")
    counts = {name: len(frames) for name, frames in found.tests.items()}
    assert counts == {"300K": 136, "600K": 167, "1200K": 166}
    seen = {structure.positions.tobytes() for structure in found.train}
    kept = [structure for frames in found.tests.values() for structure in frames]
    assert not seen & {structure.positions.tobytes() for structure in kept}
    forces = [np.sqrt(np.mean([s.forces**2 for s in frames])) for frames in found.tests.values()]
    np.testing.assert_allclose(forces, [0.958, 1.321, 1.846], rtol=0.01)


@pytest.mark.data
@pytest.mark.parametrize("molecule", ["aspirin", "ethanol", "naphthalene"])
def test_rmd17(data_dir, molecule):
    found = molecules.load_molecules(f"rmd17_{molecule}")
    frames = [*found.train, *found.tests["test"]]
    assert len(found.train) == len(found.tests["test"]) == 1000
    assert len({structure.positions.tobytes() for structure in frames}) == 2000
    # kcal/mol in the file: a hydrogen atom has 13.6 eV and carbon about 1,030
    mean = np.mean([structure.energy or 0.0 for structure in frames])
    rough = sum({1: -13.7, 6: -1030.0, 8: -2043.0}[int(z)] for z in frames[0].numbers)
    assert mean == pytest.approx(rough, rel=0.02)
    assert 0.5 < np.sqrt(np.mean([structure.forces**2 for structure in frames])) < 2


def test_missing_file_says_where_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.setenv("STRUCTLAYERS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no train_300K.xyz in .*botnet/dataset_acac.*BOTNet"):
        molecules.load_molecules("acac")

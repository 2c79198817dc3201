import ase
import ase.build
import ase.md.verlet
import ase.units
import numpy as np
import pytest

from structlayers.models.interatomic_potential import (
    Evaluator,
    Structure,
    ase_calculator,
)
from tests.models.interatomic_potential.molecules import (
    crystal,
    predictor,
    tiny_potential,
)


def test_values_are_the_potentials():
    potential = tiny_potential()
    config = potential.config
    structure = crystal(0)
    atoms = ase.Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.periodic
    )
    atoms.calc = ase_calculator(potential)
    wanted = predictor(potential, num_edges=400, stress=True)(structure)
    energies = dict(zip(config.species, config.atomic_energies or (), strict=True))
    isolated = sum(energies[z] for z in structure.numbers.tolist())
    assert atoms.get_potential_energy() == pytest.approx(
        float(wanted.energy[0]) + isolated, abs=1e-4
    )
    np.testing.assert_allclose(atoms.get_forces(), wanted.forces, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        atoms.get_stress(voigt=False), wanted.stress[0], rtol=1e-4, atol=1e-5
    )


def test_free_energy_is_the_energy():
    atoms = ase.build.molecule("H2O")
    atoms.calc = ase_calculator(tiny_potential())
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_layers_and_wires_whose_cell_ase_leaves_open():
    """Vectors across the periodic ones do not count."""
    potential = tiny_potential()
    positions = [[0.0, 0.0, 0.0], [1.2, 0.3, 0.1]]
    for periodic in ((True, True, False), (True, False, False)):
        cell = np.array([[4.0, 0.0, 0.0], [0.5, 4.0, 0.0], [0.0, 0.0, 9.0]])
        full = ase.Atoms("CO", positions, cell=cell, pbc=periodic)
        open_ = ase.Atoms("CO", positions, cell=cell * np.array(periodic)[:, None], pbc=periodic)
        energies = []
        for atoms in (full, open_):
            atoms.calc = ase_calculator(potential)
            energies.append(atoms.get_potential_energy())
        assert energies[0] == pytest.approx(energies[1], rel=1e-6)
    nothing = ase.Atoms("C", [[0, 0, 0]], pbc=True)
    with pytest.raises(ValueError, match="cell must span a volume"):
        Structure.from_ase(nothing)


def test_molecular_dynamics_conserves_energy():
    atoms = ase.build.molecule("H2O")
    atoms.calc = ase_calculator(tiny_potential())
    rng = np.random.default_rng(0)
    atoms.set_momenta(0.5 * rng.standard_normal((3, 3)))
    start = atoms.get_total_energy()
    kinetic, drift = [], []
    dynamics = ase.md.verlet.VelocityVerlet(atoms, timestep=0.2 * ase.units.fs)
    for _ in range(50):
        dynamics.run(1)
        kinetic.append(atoms.get_kinetic_energy())
        drift.append(abs(atoms.get_total_energy() - start))
    assert max(drift) < 0.02 * (max(kinetic) - min(kinetic))


def test_more_neighbours_than_before_are_all_there():
    """Atoms that come together need more places; the answer is that of an exact graph."""
    potential = tiny_potential()
    evaluator, predict = Evaluator(potential, headroom=1.0), predictor(potential, num_edges=60)
    rest = np.random.default_rng(0).standard_normal((8, 3)) + 4.0 * np.eye(8)[:, :3]
    numbers = np.full(8, 6)
    places = []
    for scale in (4.0, 1.5, 4.0):
        structure = Structure(numbers, scale * rest)
        found = evaluator(structure)
        places.append((evaluator.num_edges, evaluator.num_slots))
        exact = predict(structure)
        energy = found["energy"] + 8 * 1026.9
        assert energy == pytest.approx(float(exact.energy[0]), rel=1e-5)
        np.testing.assert_allclose(found["forces"], exact.forces, rtol=1e-3, atol=1e-5)
    assert places[0] < places[1] == places[2]


def test_an_element_never_seen_in_training_is_refused():
    potential = tiny_potential()
    unknown = Structure([92, 1], [[0, 0, 0], [0, 0, 1.9]])
    with pytest.raises(ValueError, match=r"atomic numbers \[92\] .* never seen in training"):
        Evaluator(potential)(unknown)
    atoms = ase.Atoms("UH", [[0, 0, 0], [0, 0, 1.9]], calculator=ase_calculator(potential))
    with pytest.raises(ValueError, match=r"atomic numbers \[92\] .* never seen in training"):
        atoms.get_forces()


def test_headroom_below_one():
    with pytest.raises(ValueError, match=r"headroom must be at least 1, got 0\.5"):
        Evaluator(tiny_potential(), headroom=0.5)

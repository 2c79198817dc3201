import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.transform import Rotation

from structlayers.models.interatomic_potential import (
    CONTRACTIONS,
    Structure,
    make_graph,
)
from structlayers.testing import assert_equivariant
from tests.models.interatomic_potential.molecules import (
    cluster,
    crystal,
    predictor,
    small_config,
    small_potential,
    tiny_potential,
)

SPECIES = (1, 6, 8)


@pytest.fixture(params=list(CONTRACTIONS))
def contraction(request):
    return request.param


def turned(structure, matrix, shift=0.0):
    cell = None if structure.cell is None else structure.cell @ matrix.T
    return Structure(
        structure.numbers,
        structure.positions @ matrix.T + shift,
        cell=cell,
        periodic=structure.periodic,
    )


ISOMETRIES = {
    "rotation": Rotation.from_euler("zyx", [0.4, -1.1, 2.0]).as_matrix(),
    "inversion": -np.eye(3),
}


def check_equivariance(predict, structure, bound):
    """Energy, forces and stress under rotation, inversion and translation."""
    for matrix in ISOMETRIES.values():

        def act(found, matrix=matrix):
            return found._replace(
                forces=found.forces @ matrix.T, stress=matrix @ found.stress @ matrix.T
            )

        assert_equivariant(
            predict,
            (structure,),
            act_on_inputs=lambda s, matrix=matrix: (turned(s, matrix, shift=[3.0, -1.0, 2.0]),),
            act_on_output=act,
            bound=bound,
        )


def test_equivariance(contraction):
    with jax.enable_x64(True):
        potential = small_potential(contraction=contraction, dtype=jnp.float64)
        check_equivariance(predictor(potential, num_edges=400, stress=True), crystal(2), 1e-11)


def test_degrees_count_more_by_the_degree_scale():
    """In one layer, as if the mixing of the sums of degree l were multiplied l times."""
    with jax.enable_x64(True):
        options = {"num_interactions": 1, "contraction": "gaunt", "dtype": jnp.float64}
        plain, scaled = (small_potential(**options, degree_scale=d) for d in (1.0, 1.7))
        mixed = nnx.clone(plain)
        mixed.interactions[0].neighbour_sum.mix[...] *= 1.7 ** np.arange(3)[:, None, None]
        found, wanted, other = (
            predictor(potential, num_edges=400)(crystal(2)) for potential in (scaled, mixed, plain)
        )
        np.testing.assert_allclose(found.energy, wanted.energy, rtol=1e-12)
        np.testing.assert_allclose(found.forces, wanted.forces, rtol=1e-10, atol=1e-12)
        assert abs(found.energy[0] - other.energy[0]) > 0.01


def test_equivariance_in_float32():
    potential = small_potential(contraction="gaunt")
    check_equivariance(predictor(potential, num_edges=400, stress=True), crystal(2), 5e-6)


def test_order_of_the_atoms():
    structure = crystal(1)
    order = np.random.default_rng(0).permutation(len(structure))
    permuted = Structure(
        structure.numbers[order],
        structure.positions[order],
        cell=structure.cell,
        periodic=structure.periodic,
    )
    predict = predictor(small_potential(contraction="gaunt"), num_edges=400, stress=True)
    one, other = predict(structure), predict(permuted)
    np.testing.assert_allclose(one.energy, other.energy, rtol=1e-5)
    np.testing.assert_allclose(one.forces[order], other.forces, rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing():
    exact = predictor(tiny_potential(), stress=True)(crystal(0), crystal(1))
    wide = predictor(tiny_potential(), stress=True, num_atoms=11, num_edges=700, num_graphs=3)(
        crystal(0), crystal(1)
    )
    np.testing.assert_allclose(wide.energy, [*exact.energy, 0], rtol=1e-5)
    np.testing.assert_allclose(wide.forces[:8], exact.forces, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(wide.stress[:2], exact.stress, rtol=1e-3, atol=1e-5)
    assert not np.any(wide.forces[8:])
    assert not np.any(wide.stress[2:])


def test_forces_and_stress_are_derivatives(contraction):
    """Against central differences of the energy in float64."""
    with jax.enable_x64(True):
        potential = small_potential(contraction=contraction, dtype=jnp.float64)
        structure = crystal(3)
        predict = predictor(potential, num_edges=400, stress=True)
        found = predict(structure)
        step = 1e-4

        def energy(positions, cell):
            moved = dataclasses.replace(structure, positions=positions, cell=cell)
            return float(predict(moved).energy[0])

        for atom, axis in ((0, 0), (1, 2), (3, 1)):
            offset = np.zeros((len(structure), 3))
            offset[atom, axis] = step
            ends = [energy(structure.positions + s * offset, structure.cell) for s in (1, -1)]
            slope = (ends[0] - ends[1]) / (2 * step)
            assert -slope == pytest.approx(float(found.forces[atom, axis]), rel=1e-6, abs=1e-7)
        for i, j in ((0, 0), (0, 1), (2, 1)):
            strain = np.zeros((3, 3))
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            ends = [
                energy(structure.positions @ grown, structure.cell @ grown)
                for grown in (np.eye(3) + strain, np.eye(3) - strain)
            ]
            slope = (ends[0] - ends[1]) / (2 * step) / structure.volume
            assert slope == pytest.approx(float(found.stress[0, i, j]), rel=1e-6, abs=1e-8)
        assert np.abs(found.forces).max() > 0.01
        np.testing.assert_allclose(found.stress, np.swapaxes(found.stress, 1, 2), atol=1e-12)


def test_smooth_at_the_cutoff():
    """An atom that enters the cutoff brings neither a step of the energy nor of the forces."""
    with jax.enable_x64(True):
        predict = predictor(tiny_potential(dtype=jnp.float64), num_edges=6)

        def at(distance):
            positions = [[0.0, 0, 0], [1.1, 0, 0], [0, 0, distance]]
            return predict(Structure([6, 8, 1], positions))

        inside, outside = at(4.0 - 1e-5), at(4.0 + 1e-5)
        np.testing.assert_allclose(inside.energy, outside.energy, atol=1e-12)
        np.testing.assert_allclose(inside.forces, outside.forces, atol=1e-8)
        assert np.abs(at(3.0).forces - outside.forces).max() > 1e-4


def test_an_atom_without_neighbours():
    potential = tiny_potential()
    found = predictor(potential)(Structure([6], [[0.0, 0, 0]]))
    assert np.isfinite(found.energy).all()
    assert not np.any(found.forces)


def test_energies_add_up():
    """Molecules out of each other's reach, as one structure and as two."""
    predict = predictor(tiny_potential(), num_edges=60, num_atoms=12, num_graphs=2)
    one, other = cluster(0), cluster(1)
    both = Structure(
        np.concatenate([one.numbers, other.numbers]),
        np.concatenate([one.positions, other.positions + 50.0]),
    )
    together, apart = predict(both).energy[0], predict(one, other).energy.sum()
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_isolated_atoms():
    potential = tiny_potential()
    structures = [Structure([1, 1, 8], 2 * np.eye(3)), Structure([6], [[0.0, 0, 0]])]
    places = {"num_atoms": 12, "num_edges": 60, "num_graphs": 2}
    graph = make_graph(structures, SPECIES, potential.config.cutoff, **places)
    isolated = potential.isolated_energy(graph)
    np.testing.assert_allclose(isolated, [-2 * 13.6 - 2037.8, -1026.9], rtol=1e-6)
    graphdef, state = nnx.split(potential)
    called = jax.jit(lambda state, graph: nnx.merge(graphdef, state)(graph))(state, graph)
    found = predictor(potential, **places)(*structures)
    np.testing.assert_allclose(called, found.energy, rtol=1e-5)


def test_stress_needs_a_cell():
    potential = tiny_potential()
    graph = make_graph([crystal(), cluster()], SPECIES, potential.config.cutoff)
    with pytest.raises(ValueError, match="stress needs a cell of volume in every structure"):
        potential.predict(graph, stress=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": (6, 1)}, r"species must be ascending atomic numbers, got \(6, 1\)"),
        ({"species": ()}, "species must be ascending"),
        ({"atomic_energies": (1.0,)}, "one entry for each of 3 species, got 1"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"lmax": -1}, "lmax must be at least 0, got -1"),
        ({"cutoff": 0.0}, r"cutoff must be positive, got 0\.0"),
        ({"mean_neighbours": 0.0}, "mean_neighbours must be positive"),
        ({"degree_scale": 0.0}, "degree_scale must be positive"),
        ({"contraction": "dense"}, "contraction must be one of 'clebsch_gordan'.*got 'dense'"),
        ({"precision": "best"}, "precision must be"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small_config(), **change)

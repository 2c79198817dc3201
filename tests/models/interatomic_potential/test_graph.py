import jax
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential import (
    CapacityError,
    Structure,
    make_graph,
    stack_graphs,
)
from tests.models.interatomic_potential.molecules import (
    cluster,
    crystal,
    predictor,
    tiny_potential,
)

SPECIES = (1, 6, 8)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"num_atoms": 9}, "10 atoms do not fit into num_atoms = 9 places"),
        ({"num_edges": 3}, r"\d+ edges do not fit into num_edges = 3 places"),
        ({"num_graphs": 1}, "2 structures do not fit into num_graphs = 1 places"),
    ],
)
def test_what_does_not_fit_is_an_error(places, message):
    with pytest.raises(CapacityError, match=message):
        make_graph([cluster(), crystal()], SPECIES, 4.0, **places)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"num_atoms": 5}, "6 atoms of one structure do not fit into num_atoms = 5"),
        ({"num_edges": 9}, "edges of one structure do not fit into num_edges = 9"),
    ],
)
def test_a_stack_has_places_for_its_largest(places, message):
    with pytest.raises(CapacityError, match=message):
        stack_graphs([crystal(), cluster()], SPECIES, 4.0, **places)


def test_fewer_places_than_edges():
    graph = make_graph([cluster()], SPECIES, 4.0)
    with pytest.raises(CapacityError, match="edges do not fit"):
        graph.with_edges(graph.num_edges - 1)


def test_element_never_seen_in_training():
    with pytest.raises(ValueError, match=r"numbers \[7, 92\] are of elements never seen in train"):
        make_graph([Structure([7, 92, 1], 2 * np.eye(3))], SPECIES, 4.0)


@pytest.mark.parametrize("make", [make_graph, stack_graphs])
def test_no_structure(make):
    with pytest.raises(ValueError, match="structures must hold at least one, got none"):
        make([], SPECIES, 4.0)


def test_receivers_ascend_with_padding():
    graph = make_graph([cluster(), crystal()], SPECIES, 4.0, num_atoms=12, num_edges=300)
    assert (np.diff(graph.receivers) >= 0).all()
    assert graph.atom_mask.sum() == 10
    assert graph.atom_graph[:10].tolist() == [0] * 6 + [1] * 4


def test_flattened_stack_is_one_graph():
    structures = [cluster(0), cluster(1, count=4), crystal()]
    stack = stack_graphs(structures, SPECIES, 4.0)
    flat = stack.flatten()
    assert flat.species.shape == (18,)
    assert (np.diff(flat.receivers) >= 0).all()
    graphdef, state = nnx.split(tiny_potential())
    one = jax.jit(lambda state, graph: nnx.merge(graphdef, state).predict(graph))(state, flat)
    other = predictor(tiny_potential())(*structures)
    np.testing.assert_allclose(one.energy, other.energy, rtol=2e-6)
    np.testing.assert_allclose(
        one.forces[np.asarray(flat.atom_mask)], other.forces, rtol=1e-4, atol=1e-5
    )


def test_only_a_stack_is_flattened():
    with pytest.raises(ValueError, match=r"one leading axis, got \(\)"):
        make_graph([cluster()], SPECIES, 4.0).flatten()


def test_graphs_are_pytrees():
    stack = stack_graphs([cluster(0), cluster(1)], SPECIES, 4.0)
    second = jax.tree.map(lambda leaf: leaf[1:], stack)
    np.testing.assert_array_equal(second.positions[0], np.float32(cluster(1).positions))

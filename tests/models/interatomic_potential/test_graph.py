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
def test_elements_that_do_not_ascend(make):
    with pytest.raises(ValueError, match=r"species must be ascending atomic numbers, got \(8, 6\)"):
        make([Structure([6, 8], [[0, 0, 0], [1.2, 0, 0]])], (8, 6), 4.0)


def test_a_potential_refuses_a_graph_of_other_elements_or_neighbours():
    potential = tiny_potential()
    species, cutoff = potential.config.species, potential.config.cutoff
    pair = [Structure([6, 8], [[0, 0, 0], [1.2, 0, 0]])]
    with pytest.raises(ValueError, match=r"graph must be made for the elements \(1, 6, 8\)"):
        potential(make_graph(pair, (6, 8), cutoff, num_edges=9))
    with pytest.raises(ValueError, match=r"within the potential's cutoff of .* within 1\.5"):
        potential.predict(make_graph(pair, species, 1.5))
    with pytest.raises(ValueError, match="within the potential's cutoff"):
        nnx.jit(lambda model, graph: model(graph.flatten()))(
            potential, stack_graphs(pair, species, 1.5).with_slots(2)
        )
    wider = potential(make_graph(pair, species, 2 * cutoff))
    np.testing.assert_allclose(wider, potential(make_graph(pair, species, cutoff)), rtol=1e-6)


@pytest.mark.parametrize("make", [make_graph, stack_graphs])
def test_no_structure(make):
    with pytest.raises(ValueError, match="structures must hold at least one, got none"):
        make([], SPECIES, 4.0)


def test_receivers_ascend_with_padding():
    graph = make_graph([cluster(), crystal()], SPECIES, 4.0, num_atoms=12, num_edges=300)
    assert (np.diff(graph.receivers) >= 0).all()
    assert graph.atom_mask.sum() == 10
    assert graph.atom_graph[:10].tolist() == [0] * 6 + [1] * 4


@pytest.mark.parametrize("slots", [None, 70])
def test_flattened_stack_is_one_graph(slots):
    structures = [cluster(0), cluster(1, count=4), crystal()]
    stack = stack_graphs(structures, SPECIES, 4.0)
    flat = (stack if slots is None else stack.with_slots(slots)).flatten()
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


def _edges(graph):
    mask = graph.edge_mask
    return np.column_stack([graph.receivers[mask], graph.senders[mask], graph.images[mask]])


@pytest.mark.parametrize("places", [{"num_slots": 60}, {"num_edges": 300}, {}])
def test_reverse_edges(places):
    """The reverse of an edge is the same pair from the other end, image and all."""
    graph = make_graph([cluster(), crystal()], SPECIES, 4.0, num_atoms=12)
    if "num_slots" in places:
        graph = graph.with_slots(places["num_slots"])
    if "num_edges" in places:
        graph = graph.with_edges(places["num_edges"])
    assert (graph.reverse[graph.reverse] == np.arange(graph.num_edges)).all()
    np.testing.assert_array_equal(graph.receivers[graph.reverse], graph.senders)
    np.testing.assert_array_equal(graph.images[graph.reverse], -graph.images)
    np.testing.assert_array_equal(graph.edge_mask[graph.reverse], graph.edge_mask)
    assert (graph.images[graph.edge_mask].any(axis=1) & (graph.reverse[graph.edge_mask] > 0)).any()


def test_slots_hold_the_same_edges():
    graph = make_graph([cluster(), crystal()], SPECIES, 4.0, num_atoms=12)
    slots = graph.with_slots(61)
    assert slots.num_edges == 12 * 61
    np.testing.assert_array_equal(slots.receivers, np.repeat(np.arange(12), 61))
    np.testing.assert_array_equal(_edges(slots), _edges(graph))
    back = slots.with_edges(graph.num_edges)
    assert back.num_slots is None
    jax.tree.map(np.testing.assert_array_equal, back, graph)


def test_fewer_slots_than_neighbours():
    graph = make_graph([cluster()], SPECIES, 4.0)
    most = int(np.bincount(graph.receivers).max())
    assert graph.with_slots(most).num_slots == most
    with pytest.raises(
        CapacityError, match=f"{most} neighbours of one atom do not fit into num_sl"
    ):
        graph.with_slots(most - 1)


def test_slots_where_they_take_little_memory():
    stack = stack_graphs([cluster(0), cluster(1, count=5)], SPECIES, 4.0)
    most = max(np.bincount(row.receivers[row.edge_mask]).max() for row in _rows(stack))
    assert stack.suited_slots() == most
    assert stack.suited_slots(headroom=1.5) == int(np.ceil(1.5 * most))
    assert stack.suited_slots(most=0.9) is None
    # one atom with many neighbours among many without
    lone = 50.0 + 20.0 * np.arange(30)[:, None] * np.ones(3)
    crowd = Structure([6] * 36, np.concatenate([cluster(0).positions, lone]))
    assert make_graph([crowd], SPECIES, 4.0).suited_slots() is None
    assert make_graph([Structure([6], [[0.0, 0, 0]])], SPECIES, 4.0).suited_slots() is None


def _rows(stack):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(len(stack.species))]

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential import make_graph
from structlayers.models.interatomic_potential.convolution import NeighbourSum, natural_paths
from structlayers.models.interatomic_potential.edges import Edges
from tests.models.interatomic_potential.molecules import (
    cluster,
    crystal,
    small_config,
    small_potential,
)

SPECIES = (1, 6, 8)


@pytest.fixture(params=["list", "slots"])
def graph(request):
    """Both layouts of the edges, with padding."""
    found = make_graph([cluster(), crystal()], SPECIES, 4.0, num_atoms=11, dtype=np.float64)
    return found.with_edges(400) if request.param == "list" else found.with_slots(60)


@pytest.mark.parametrize("hidden", [0, 1])
def test_sum_by_definition(graph, hidden):
    """Edge by edge, path by path, with loops for the sums."""
    rng = np.random.default_rng(hidden)
    with jax.enable_x64(True):
        config = small_config(dtype=jnp.float64)
        layer = NeighbourSum(config, hidden, rngs=nnx.Rngs(1))
        features = rng.standard_normal((11, (hidden + 1) ** 2, 2))
        harmonics = rng.standard_normal((graph.num_edges, 9))
        radial = rng.standard_normal((graph.num_edges, 8)) * graph.edge_mask[:, None]
        edges = Edges.of(jax.tree.map(jnp.asarray, graph))
        weights = jnp.einsum("eh,hpc->epc", radial, layer.radial_kernel)
        found = layer(layer.up(jnp.asarray(features)), jnp.asarray(harmonics), weights, edges)
        counts, table = natural_paths(2, hidden)
        up = np.asarray(layer.up.kernel[...]) / np.sqrt(2)
        functions = np.einsum("eh,hpc->epc", radial, layer.radial[...]) / np.sqrt(8)
        summed = np.zeros((11, table.shape[2], 2))
        paths = np.repeat(np.arange(sum(counts)), np.repeat([1, 3, 5], counts))
        for e in np.flatnonzero(graph.edge_mask):
            sent = np.stack(
                [x @ up[math.isqrt(i)] for i, x in enumerate(features[graph.senders[e]])]
            )
            message = np.einsum("i,ijq,jc->qc", harmonics[e], table, sent) * functions[e, paths]
            summed[graph.receivers[e]] += message / config.mean_neighbours
        mix, wanted, path, place = np.asarray(layer.mix[...]), np.zeros((11, 9, 2)), 0, 0
        for degree, count in enumerate(counts):
            for p, m in itertools.product(range(count), range(2 * degree + 1)):
                row = summed[:, place + p * (2 * degree + 1) + m] @ mix[path + p]
                wanted[:, degree**2 + m] += row / np.sqrt(2 * count)
            path, place = path + count, place + count * (2 * degree + 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_gathers_and_sums_are_transposes(graph):
    """To second order, and forwards as well as backwards."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        edges = Edges.of(jax.tree.map(jnp.asarray, graph))
        x, y = (jnp.asarray(rng.standard_normal((11, 3))) for _ in range(2))
        c = jnp.asarray(rng.standard_normal((graph.num_edges, 3)))
        np.testing.assert_array_equal(edges.of_senders(x), x[graph.senders])
        np.testing.assert_array_equal(edges.of_receivers(x), x[graph.receivers])
        wanted = np.zeros((11, 3))
        np.add.at(wanted, graph.receivers, c)
        np.testing.assert_allclose(edges.sum(c), wanted, rtol=1e-12)
        wanted = np.zeros((11, 3))
        np.add.at(wanted, graph.senders, c)
        gradient = jax.grad(lambda x: jnp.sum(edges.of_senders(x) * c))
        np.testing.assert_allclose(gradient(x), wanted, rtol=1e-12)

        def energy(x):
            return jnp.sum(edges.sum(jnp.sin(edges.of_senders(x)) * edges.of_receivers(x)) ** 2)

        def plain(x):
            product = jnp.sin(x[graph.senders]) * x[graph.receivers]
            return jnp.sum(jnp.zeros_like(x).at[graph.receivers].add(product) ** 2)

        for transform in (
            lambda f: jax.jvp(jax.grad(f), (x,), (y,))[1],
            lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) * y))(x),
            lambda f: jax.vmap(jax.grad(f))(jnp.stack([x, y])),
        ):
            np.testing.assert_allclose(transform(energy), transform(plain), rtol=1e-9, atol=1e-9)


def test_both_layouts_predict_the_same():
    """Energy, forces, stress, and the gradient of a loss of all of them."""
    with jax.enable_x64(True):
        structures = [crystal(1, count=3), crystal(2)]
        listed = make_graph(structures, SPECIES, 4.0, dtype=np.float64)
        graphs = listed, listed.with_slots(int(np.bincount(listed.receivers).max()) + 1)
        sizes = {"lmax": 1, "correlation": 2, "radial_features": (4,), "channels": 1}
        potential = small_potential(contraction="gaunt", dtype=jnp.float64, **sizes)
        graphdef, state = nnx.split(potential)

        @jax.jit
        @jax.grad
        def gradient(state, graph):
            found = nnx.merge(graphdef, state).predict(graph, stress=True)
            return sum(jnp.sum(jnp.square(value)) for value in jax.tree.leaves(found))

        one, other = (gradient(state, graph) for graph in graphs)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), one, other
        )


def test_slots_scatter_nothing_by_edges():
    """Sums of messages and derivatives of gathers are no scattered additions."""
    listed = make_graph([cluster(), crystal()], SPECIES, 4.0)
    graphdef, state = nnx.split(small_potential(contraction="gaunt"))

    def loss(state, graph):
        found = nnx.merge(graphdef, state).predict(graph)
        return jnp.sum(found.energy**2) + jnp.sum(found.forces**2)

    def scatters(graph):
        text = jax.jit(jax.grad(loss)).lower(state, graph).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.scatter" in line]
        return len(lines)

    # one by structures remains, of the atoms' energies
    assert scatters(listed.with_slots(60)) <= 1 < scatters(listed)

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential.harmonics import edge_harmonics
from structlayers.models.interatomic_potential.parts import (
    DegreeLinear,
    PlainNetwork,
    RadialNetworks,
)

OPTIONS = {"dtype": jnp.float32, "precision": jax.lax.Precision.HIGHEST}


@pytest.mark.parametrize("lmax", [0, 1])
def test_linear_by_degree_and_element(rng, lmax):
    linear = DegreeLinear(3, lmax, num_species=2, rngs=nnx.Rngs(0), **OPTIONS)
    plain = DegreeLinear(3, lmax, rngs=nnx.Rngs(1), **OPTIONS)
    x = rng.standard_normal((5, (lmax + 1) ** 2, 3)).astype(np.float32)
    species = np.array([0, 1, 1, 0, 1])
    found = linear(jnp.asarray(x), jnp.asarray(np.eye(2, dtype=np.float32)[species]))
    kernel = np.asarray(linear.kernel[...]) / np.sqrt(3)
    other = np.asarray(plain.kernel[...]) / np.sqrt(3)
    for i, degree in enumerate([0, 1, 1, 1][: x.shape[1]]):
        for n in range(5):
            wanted = x[n, i] @ kernel[species[n], degree]
            np.testing.assert_allclose(found[n, i], wanted, rtol=1e-4, atol=1e-5)
        wanted = x[:, i] @ other[degree]
        np.testing.assert_allclose(plain(jnp.asarray(x))[:, i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(5,), (5, 4), (5, 4, 7)])
def test_radial_networks_are_networks_side_by_side(rng, sizes):
    """Each is a plain network with another layer on top of it."""
    networks = RadialNetworks(2, sizes, rngs=nnx.Rngs(0), **OPTIONS)
    x = rng.standard_normal((6, 5)).astype(np.float32)
    found = networks(jnp.asarray(x))
    assert found.shape == (2, 6, sizes[-1])
    for t in range(2):
        plain = PlainNetwork((*sizes, 3), rngs=nnx.Rngs(1), **OPTIONS)
        for own, kernel in zip(plain.kernels, networks.kernels, strict=False):
            own[...] = kernel[...][t]
        last = np.asarray(plain.kernels[len(sizes) - 1][...])
        wanted = np.asarray(found[t]) @ last / np.sqrt(sizes[-1])
        np.testing.assert_allclose(plain(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lmax", [0, 3, 6])
def test_harmonics_of_edges(rng, lmax):
    vectors = rng.standard_normal((40, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with jax.enable_x64(True):
        wanted = e3nn.spherical_harmonics(
            e3nn.s2_irreps(lmax), e3nn.IrrepsArray("1o", jnp.asarray(vectors)), True, "component"
        ).array
        np.testing.assert_allclose(edge_harmonics(jnp.asarray(vectors), lmax), wanted, atol=1e-11)
    found = edge_harmonics(jnp.asarray(vectors, jnp.float32), lmax)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_networks_keep_the_mean_square_and_zero(rng):
    network = PlainNetwork((50, 300, 300, 200), rngs=nnx.Rngs(0), **OPTIONS)
    x = rng.standard_normal((400, 50)).astype(np.float32)
    assert float(jnp.mean(network(jnp.asarray(x)) ** 2)) == pytest.approx(1.0, rel=0.1)
    assert not np.any(network(jnp.zeros((1, 50))))

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential.parts import DegreeLinear, PlainNetwork
from structlayers.models.interatomic_potential.radial import bessel_basis, polynomial_cutoff

OPTIONS = {"dtype": jnp.float32, "precision": jax.lax.Precision.HIGHEST}


def test_bessel_functions_are_orthonormal():
    edges = np.linspace(0, 5, 4001)
    r = (edges[1:] + edges[:-1]) / 2
    values = np.asarray(bessel_basis(jnp.asarray(r, jnp.float32), 4, 5.0), float)
    gram = np.einsum("ri,rj,r->ij", values, values, r**2 * np.diff(edges))
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(bessel_basis(jnp.array([5.0]), 4, 5.0), 0, atol=1e-6)


@pytest.mark.parametrize("power", [2, 5, 6])
def test_cutoff_is_smooth(power):
    derivatives = [lambda r: polynomial_cutoff(r, power, 5.0)]
    for _ in range(3):
        derivatives.append(jax.grad(derivatives[-1]))
    with jax.enable_x64(True):
        near = [float(derivative(jnp.asarray(5.0 - 1e-9))) for derivative in derivatives]
        np.testing.assert_allclose(near[:3], 0, atol=1e-6)
        assert abs(near[3]) > 0.05
        assert all(float(derivative(jnp.asarray(5.1))) == 0 for derivative in derivatives)
        assert float(derivatives[0](jnp.asarray(0.0))) == 1


def test_linear_by_degree_and_element(rng):
    linear = DegreeLinear(3, 1, num_species=2, rngs=nnx.Rngs(0), **OPTIONS)
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    species = np.array([0, 1, 1, 0, 1])
    found = linear(jnp.asarray(x), jnp.asarray(np.eye(2, dtype=np.float32)[species]))
    kernel = np.asarray(linear.kernel[...]) / np.sqrt(3)
    for n in range(5):
        for i, degree in enumerate([0, 1, 1, 1]):
            np.testing.assert_allclose(
                found[n, :, i], x[n, :, i] @ kernel[species[n], degree], rtol=1e-4, atol=1e-5
            )


def test_networks_keep_the_mean_square_and_zero(rng):
    network = PlainNetwork((50, 300, 300, 200), rngs=nnx.Rngs(0), **OPTIONS)
    x = rng.standard_normal((400, 50)).astype(np.float32)
    assert float(jnp.mean(network(jnp.asarray(x)) ** 2)) == pytest.approx(1.0, rel=0.1)
    assert not np.any(network(jnp.zeros((1, 50))))

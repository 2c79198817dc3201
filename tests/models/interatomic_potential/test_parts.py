import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential.parts import DegreeLinear, PlainNetwork

OPTIONS = {"dtype": jnp.float32, "precision": jax.lax.Precision.HIGHEST}


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

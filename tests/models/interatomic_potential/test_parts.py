from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.models.interatomic_potential.harmonics import (
    edge_harmonics,
    harmonic_polynomials,
)
from structlayers.models.interatomic_potential.parts import (
    DegreeLinear,
    PlainNetwork,
    scaled_silu,
)
from structlayers.models.interatomic_potential.radial import RadialNetworks

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


def radial_networks(sizes, dtype):
    """Two networks of a basis, their last layers, and the same as plain networks."""
    options: dict[str, Any] = OPTIONS | {"dtype": dtype}
    networks = RadialNetworks(2, sizes, rngs=nnx.Rngs(0), **options)
    plain = [PlainNetwork((*sizes, 3), rngs=nnx.Rngs(t), **options) for t in range(2)]
    for t, one in enumerate(plain):
        for own, kernel in zip(one.kernels, networks.kernels, strict=False):
            own[...] = kernel[...][t]
    last = [one.kernels[len(sizes) - 1][...] * sizes[-1] ** -0.5 for one in plain]

    def basis(r):
        return jnp.sin(r[..., None] * jnp.arange(1, 6, dtype=r.dtype).reshape([1] * r.ndim + [5]))

    return networks, basis, last, plain


@pytest.mark.parametrize("sizes", [(5,), (5, 4), (5, 4, 7)])
def test_radial_networks_are_networks_side_by_side(rng, sizes):
    networks, basis, last, plain = radial_networks(sizes, jnp.float32)
    r = jnp.asarray(rng.uniform(0.5, 3, 6), jnp.float32)
    for found, one in zip(networks(r, basis, last), plain, strict=True):
        assert found.shape == (6, 3)
        np.testing.assert_allclose(found, one(basis(r)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["distance", "weights", "mixed", "second", "both"])
def test_derivatives_of_radial_networks(rng, order):
    """Those by slopes are those of plain networks, by distances, by weights, and by both."""
    with jax.enable_x64(True):
        networks, basis, last, plain = radial_networks((5, 4), jnp.float64)
        r, c, d = (jnp.asarray(rng.standard_normal(shape)) for shape in (6, (6, 3), 6))

        def by_slopes(r, last):
            return sum(jnp.sum(c * one**2) for one in networks(r, basis, last))

        def directly(r, last):
            total = 0.0
            for one, kernel in zip(plain, last, strict=True):
                first, _ = one.kernels
                hidden = scaled_silu(basis(r) @ first[...] * 5**-0.5)
                total = total + jnp.sum(c * (hidden @ kernel) ** 2)
            return total

        def force(f):
            return lambda r, last: jnp.sum(d * jax.grad(f)(r, last))

        transform = {
            "distance": jax.grad,
            "weights": lambda f: jax.grad(f, 1),
            "mixed": lambda f: jax.grad(force(f), 1),
            "second": lambda f: jax.grad(force(f)),
            "both": lambda f: jax.grad(f, (0, 1)),
        }[order]
        found, wanted = transform(by_slopes)(r, last), transform(directly)(r, last)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


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


@pytest.mark.parametrize(("lmax", "scale"), [(0, 1.0), (1, 1.0), (3, 1.0), (3, 1.7)])
def test_slopes_of_harmonics(rng, lmax, scale):
    """Values, first and second derivatives against those of monomials that are differentiated."""
    degrees = np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)
    table = harmonic_polynomials(lmax) * scale**degrees
    exponents = np.indices(table.shape[:3]).reshape(3, -1)
    with jax.enable_x64(True):
        x, c, d = (jnp.asarray(rng.standard_normal((7, n))) for n in (3, (lmax + 1) ** 2, 3))

        def monomials(x):
            powers = [jnp.stack([x[:, i] ** k for k in range(lmax + 1)]) for i in range(3)]
            return jnp.prod(jnp.stack([powers[i][exponents[i]] for i in range(3)]), axis=0).T

        def directly(x):
            return jnp.sum(c * (monomials(x) @ table.reshape(-1, table.shape[-1])) ** 2)

        def by_slopes(x):
            return jnp.sum(c * edge_harmonics(x, lmax, scale) ** 2)

        def twice(f):
            return jax.grad(lambda x: jnp.sum(d * jax.grad(f)(x)))

        for order in (lambda f: f, jax.grad, twice):
            np.testing.assert_allclose(order(by_slopes)(x), order(directly)(x), rtol=1e-9)


def test_networks_keep_the_mean_square_and_zero(rng):
    network = PlainNetwork((50, 300, 300, 200), rngs=nnx.Rngs(0), **OPTIONS)
    x = rng.standard_normal((400, 50)).astype(np.float32)
    assert float(jnp.mean(network(jnp.asarray(x)) ** 2)) == pytest.approx(1.0, rel=0.1)
    assert not np.any(network(jnp.zeros((1, 50))))

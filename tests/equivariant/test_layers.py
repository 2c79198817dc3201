"""Layers: equivariance and parities with IrrepsArray, variances, species, Linen, bad input."""

from functools import partial
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers import linen as sl
from structlayers.equivariant import GauntConvolution, GauntManyBody, GauntTensorProduct
from structlayers.equivariant.harmonics import degree_slices
from tests.equivariant.cases import signal, turn


def field(rng: np.random.Generator, lead: int, irreps: str) -> e3nn.IrrepsArray:
    shape = (lead, e3nn.Irreps(irreps).dim)
    return e3nn.IrrepsArray(irreps, jnp.asarray(rng.standard_normal(shape), jnp.float32))


@pytest.mark.parametrize("inverts", [False, True])
@pytest.mark.parametrize("name", ["product", "many body", "convolution"])
def test_equivariance(name, inverts, rng):
    x = field(rng, 6, "4x0e+4x1o+4x2e")
    y = field(rng, 6, "0o+1e")
    make: Any = {
        "product": partial(GauntTensorProduct, 4, 2, 1, rank=2),
        "many body": partial(GauntManyBody, 4, 2, order=2, rank=2),
        "convolution": partial(GauntConvolution, 4, 2, 1, 5, num_neighbors=2.0),
    }[name]
    layer = make(rngs=nnx.Rngs(0))
    features = jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)
    ends = np.arange(6)

    @jax.jit
    def run(x, y):
        if name == "product":
            return layer(x, y)
        if name == "many body":
            return layer(x)
        return layer(x, y, features, ends, ends[::-1].copy())

    matrix = jnp.asarray(turn(inverts=inverts), jnp.float32)
    out = run(x, y)
    assert str(out.irreps) == ("4x0e+4x1o+4x2e" if name == "many body" else "4x0o+4x1e+4x2o")
    acted = run(x.transform_by_matrix(matrix), y.transform_by_matrix(matrix))
    wanted = out.transform_by_matrix(matrix).array
    np.testing.assert_allclose(acted.array, wanted, atol=2e-6 * float(jnp.abs(wanted).max()))


def test_variance_is_one(rng):
    """Of outputs over inputs and weights, for every degree."""
    x = signal(rng, 60, 1500, lmax=2, dtype="float32")
    y = signal(rng, 60, 1500, lmax=2, dtype="float32")
    product = GauntTensorProduct(1500, 2, 2, 3, rank=2, rngs=nnx.Rngs(0))(x, y)
    for part in degree_slices(3):
        assert float(jnp.mean(product[..., part] ** 2)) == pytest.approx(1, abs=0.2)
    power = GauntManyBody(1500, 2, 2, order=2, rngs=nnx.Rngs(1))(x)
    for part in degree_slices(2):
        assert float(jnp.mean(power[..., part] ** 2)) == pytest.approx(1, abs=0.2)


def test_degrees_that_no_power_reaches_stay_finite():
    out = GauntManyBody(2, 0, 0, order=2, rngs=nnx.Rngs(0))(jnp.ones((3, 2, 1)))
    assert np.isfinite(out).all()
    out = GauntManyBody(2, 1, 3, order=3, rngs=nnx.Rngs(0))(jnp.ones((3, 2, 4)))
    assert np.isfinite(out).all()
    assert np.any(np.asarray(out)[..., 9:] != 0)


def test_species_choose_their_weights(rng):
    x = jnp.asarray(signal(rng, 4, 2, lmax=1), jnp.float32)
    layer = GauntManyBody(2, 1, order=2, num_species=3, rngs=nnx.Rngs(0))
    species = jnp.array([2, 0, 1, 2])
    out = np.asarray(layer(x, species))
    swapped = np.asarray(layer(x, jnp.array([2, 1, 1, 2])))
    assert np.array_equal(out[[0, 2, 3]], swapped[[0, 2, 3]])
    assert not np.allclose(out[1], swapped[1])
    permuted = layer(x[::-1], species[::-1])[::-1]
    np.testing.assert_allclose(permuted, out, rtol=1e-5, atol=1e-6)
    for unknown in (3, -1):
        bad = species.at[1].set(unknown)
        with pytest.raises(ValueError, match=f"species must be from 0 to 2, got .*{unknown}"):
            layer(x, bad)
        rows = np.asarray(nnx.jit(lambda layer, x, s: layer(x, s))(layer, x, bad))
        assert np.isnan(rows[1]).all()
        np.testing.assert_allclose(rows[[0, 2, 3]], out[[0, 2, 3]], rtol=1e-5, atol=1e-6)


def test_dtype_of_the_computation(rng):
    x = jnp.asarray(signal(rng, 3, 2, lmax=1), jnp.float32)
    layer = GauntTensorProduct(2, 1, 1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer(x, x).dtype == jnp.bfloat16
    assert layer.w1.dtype == jnp.float32


def test_linen(rng):
    x = jnp.asarray(signal(rng, 3, 2, lmax=1), jnp.float32)
    ends, features = jnp.array([0, 1, 2]), jnp.ones((3, 5))
    for model, args, names in (
        (sl.GauntTensorProduct(2, 1, 1), (x, x), {"w1", "w2", "w3"}),
        (sl.GauntManyBody(2, 1, rank=2), (x,), {"weights", "input_weights"}),
        (sl.GauntConvolution(2, 1, 1, 5), (x, x[:, :1], features, ends, ends), {"kernel"}),
    ):
        variables = model.init(jax.random.key(0), *args)
        assert set(variables["params"]) == names
        out: Any = model.apply(variables, *args)
        assert out.shape == (3, 2, 4)


def test_bad_input_is_refused():
    rngs = nnx.Rngs(0)
    x = jnp.ones((3, 2, 4))
    product = GauntTensorProduct(2, 1, 1, rngs=rngs)
    with pytest.raises(ValueError, match=r"x must have shape \(\*B, 2, 4\), got \(3, 5, 4\)"):
        product(jnp.ones((3, 5, 4)), x)
    with pytest.raises(ValueError, match="x must be a signal of degree 1, got degree 2"):
        product(jnp.ones((3, 2, 9)), x)
    with pytest.raises(ValueError, match="y must have 2 channels or 1"):
        product(x, jnp.ones((3, 3, 4)))
    with pytest.raises(ValueError, match="lmax must be at most 2"):
        GauntTensorProduct(2, 1, 1, 3, rngs=rngs)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        GauntTensorProduct(2, 1, 1, rank=0, rngs=rngs)
    with pytest.raises(TypeError, match="param_dtype must be real floating point, got int32"):
        GauntTensorProduct(2, 1, 1, param_dtype=jnp.int32, rngs=rngs)
    many = GauntManyBody(2, 1, num_species=3, rngs=rngs)
    with pytest.raises(ValueError, match="species must be given: there are 3"):
        many(x)
    with pytest.raises(ValueError, match="species must be from 0 to 2, got 0 to 3"):
        many(x, jnp.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"species must have shape \(3,\), got \(2,\)"):
        many(x, jnp.array([0, 1]))
    with pytest.raises(ValueError, match="x must have values of even parity"):
        many(e3nn.IrrepsArray("2x0o+2x1e", jnp.ones((3, 8))), jnp.zeros(3, jnp.int32))
    convolution = GauntConvolution(2, 1, 1, 5, rngs=rngs)
    ends = jnp.array([0, 1, 2])
    with pytest.raises(ValueError, match=r"edge_features must have shape \(E, F\) = \(3, 5\)"):
        convolution(x, x[:, :1], jnp.ones((3, 4)), ends, ends)
    with pytest.raises(ValueError, match=r"y must have shape \(\*B, 1, 4\), got \(3, 2, 4\)"):
        convolution(x, x, jnp.ones((3, 5)), ends, ends)
    with pytest.raises(ValueError, match="num_neighbors must be above 0, got 0"):
        GauntConvolution(2, 1, 1, 5, num_neighbors=0, rngs=rngs)


def test_features_of_edges_that_only_fill_up(rng):
    layer = GauntConvolution(2, 1, 1, 5, rngs=nnx.Rngs(0))
    x, y = signal(rng, 3, 2, lmax=1, dtype="float32"), signal(rng, 4, 1, lmax=1, dtype="float32")
    features = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)
    ends, mask = (np.array([0, 1, 2, 2]), np.array([1, 2, 0, 2])), np.arange(4) < 3

    @nnx.value_and_grad
    def square(layer, y, features, ends, mask=None):
        return jnp.sum(layer(x, y, features, *ends, mask=mask) ** 2)

    found = square(layer, y, features.at[3].set(jnp.nan), ends, mask)
    wanted = square(layer, y[:3], features[:3], (ends[0][:3], ends[1][:3]))
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)

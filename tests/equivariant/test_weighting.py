"""Weights of a Gaunt product by rank and fully connected, against sums over all coefficients."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant import gaunt_message_passing, gaunt_tensor_product
from structlayers.equivariant.tables import dense_gaunt
from structlayers.testing import assert_sharded_equals_single, error_ratio

DEGREES = (2, 1, 3)


def spread(weights):
    """One weight for each coefficient."""
    return np.repeat(weights, 2 * np.arange(weights.shape[-1]) + 1, axis=-1)


def signals(rng, *leads):
    return [
        rng.standard_normal((*lead, (degree + 1) ** 2))
        for lead, degree in zip(leads, DEGREES, strict=False)
    ]


def draw_weights(rng, *leads):
    return tuple(
        rng.standard_normal((*lead, degree + 1))
        for lead, degree in zip(leads, DEGREES, strict=True)
    )


def fully_connected(x, y, weights):
    """Every coefficient of every channel with every other; weights with the axis E in front."""
    w1, w2, w3 = (spread(w) for w in weights)
    left = np.einsum("eci,ecgi->egi", x, w1)
    right = np.einsum("ecj,ecgj->egj", y, w2)
    z = np.einsum("egi,egj,ijk->egk", left, right, dense_gaunt(*DEGREES))
    return np.einsum("egk,egdk->edk", z, w3)


@pytest.mark.parametrize("implementation", ["xla", "reference", None])
def test_rank_is_a_sum_of_products(implementation, rng):
    x, y = signals(rng, (5, 4), (5, 1))
    w1, w2, w3 = draw_weights(rng, (3, 4), (3, 5, 1), (3, 1))
    with jax.enable_x64(True):
        found = gaunt_tensor_product(
            x, y, weights=(w1, w2, w3), weighting="rank", implementation=implementation
        )
        each = [gaunt_tensor_product(x, y, weights=(w1[r], w2[r], w3[r])) for r in range(3)]
        np.testing.assert_allclose(found, sum(each), atol=1e-12)
        assert found.shape == (5, 4, 16)
        one = gaunt_tensor_product(
            x[0, 0], y[0, 0], weights=(None, w2[:, 0, 0], None), weighting="rank"
        )
        wanted = gaunt_tensor_product(x[0, 0], y[0, 0], weights=(None, w2.sum(0)[0, 0], None))
        np.testing.assert_allclose(one, wanted, atol=1e-12)


@pytest.mark.parametrize("implementation", ["xla", "antipodal", "separable", "reference", None])
def test_fully_connected_weights_mix_channels(implementation, rng):
    x, y = signals(rng, (5, 4), (5, 2))
    weights = draw_weights(rng, (4, 3), (2, 3), (3, 6))
    with jax.enable_x64(True):
        z = gaunt_tensor_product(
            x, y, weights=weights, weighting="fully_connected", implementation=implementation
        )
    assert z.shape == (5, 6, 16)
    np.testing.assert_allclose(z, fully_connected(x, y, [w[None] for w in weights]), atol=1e-12)


def test_fully_connected_weights_of_edges_and_species(rng):
    """Weights with an axis of rows, also as rows of a table."""
    x, y = signals(rng, (5, 4), (5, 1))
    weights = draw_weights(rng, (5, 4, 3), (5, 1, 3), (5, 3, 2))
    tables = draw_weights(rng, (7, 4, 3), (7, 1, 3), (7, 3, 2))
    species = np.array([6, 0, 3, 3, 1])
    with jax.enable_x64(True):
        for given in (weights, tuple(table[species] for table in tables)):
            z = gaunt_tensor_product(x, y, weights=given, weighting="fully_connected")
            np.testing.assert_allclose(z, fully_connected(x, y, given), atol=1e-12)


def test_what_is_not_given_is_not_mixed(rng):
    x, y = signals(rng, (5, 4), (5, 1))
    (w1, _, w3) = draw_weights(rng, (4, 3), (1, 1), (3, 6))
    with jax.enable_x64(True):
        z = gaunt_tensor_product(x, y, weights=(w1, None, w3), weighting="fully_connected")
        one = np.ones((5, 1, 3, 2))
        wanted = fully_connected(x, y, (w1[None], one, w3[None]))
        np.testing.assert_allclose(z, wanted, atol=1e-12)
        plain = gaunt_tensor_product(x, y, weighting="fully_connected")
        np.testing.assert_array_equal(plain, gaunt_tensor_product(x, y))


def test_gradients_of_fully_connected_weights(rng):
    """Of signals and all weights, in float64."""
    x, y = signals(rng, (5, 4), (5, 2))
    weights = draw_weights(rng, (4, 3), (2, 3), (3, 6))
    table = dense_gaunt(*DEGREES)

    def loss(x, y, weights):
        z = gaunt_tensor_product(x, y, weights=weights, weighting="fully_connected")
        return jnp.sum(jnp.sin(z))

    def wanted(x, y, weights):
        counts = [2 * np.arange(degree + 1) + 1 for degree in DEGREES]
        w1, w2, w3 = (jnp.repeat(w, n, axis=-1) for w, n in zip(weights, counts, strict=True))
        z = jnp.einsum("eci,cgi,ehj,hgj,ijk,gdk->edk", x, w1, y, w2, table, w3)
        return jnp.sum(jnp.sin(z))

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(loss, (0, 1, 2)))(x, y, weights)
        exact = jax.jit(jax.grad(wanted, (0, 1, 2)))(x, y, weights)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert error_ratio(one, other) < 1e-12


def test_irreps_arrays_with_other_channels(rng):
    x = e3nn.IrrepsArray("4x0e+4x1o+4x2e", jnp.asarray(rng.standard_normal((5, 36)), "float32"))
    y = e3nn.IrrepsArray("2x0o+2x1e", jnp.asarray(rng.standard_normal((5, 8)), "float32"))
    weights = tuple(w.astype("float32") for w in draw_weights(rng, (4, 3), (2, 3), (3, 6)))
    product = jax.jit(gaunt_tensor_product, static_argnames="weighting")
    z = product(x, y, weights=weights, weighting="fully_connected")
    assert str(z.irreps) == "6x0o+6x1e+6x2o+6x3e"
    arrays = [signal.mul_to_axis().array for signal in (x, y)]
    plain = product(*arrays, weights=weights, weighting="fully_connected")
    assert error_ratio(z.mul_to_axis().array, plain) < 1e-6
    ranks = tuple(w.astype("float32") for w in draw_weights(rng, (3, 4), (3, 1), (3, 4)))
    one = e3nn.IrrepsArray("0e+1o", jnp.asarray(rng.standard_normal((5, 4)), "float32"))
    summed = product(x, one, weights=ranks, weighting="rank")
    assert str(summed.irreps) == "4x0e+4x1o+4x2e+4x3o"


def test_words_of_precision(rng):
    """Tables in TF32; channels mix in float32."""
    x, y = (array.astype("float32") for array in signals(rng, (5, 4), (5, 2)))
    weights = tuple(w.astype("float32") for w in draw_weights(rng, (4, 3), (2, 3), (3, 6)))
    wanted = fully_connected(x, y, [w[None] for w in weights])
    for precision, bound in ((None, 5e-7), ("tf32", 2e-3), ("default", 5e-7)):
        z = gaunt_tensor_product(
            x, y, weights=weights, weighting="fully_connected", precision=precision
        )
        assert error_ratio(z, wanted) < bound


@pytest.mark.parametrize("weighting", ["rank", "fully_connected"])
def test_messages(weighting, rng):
    x, y = signals(rng, (3, 4), (5, 1))
    leads = {"rank": ((2, 5, 4), (2, 1), (2, 4)), "fully_connected": ((5, 4, 3), (1, 3), (3, 6))}
    weights = draw_weights(rng, *leads[weighting])
    senders, receivers = np.array([0, 2, 1, 1, 0]), np.array([2, 2, 0, 1, 2])
    with jax.enable_x64(True):
        z = gaunt_message_passing(
            x, y[:, 0], senders, receivers, weights=weights, weighting=weighting
        )
        each = gaunt_tensor_product(x[senders], y, weights=weights, weighting=weighting)
    wanted = np.zeros((3, *each.shape[1:]))
    np.add.at(wanted, receivers, np.asarray(each))
    np.testing.assert_allclose(z, wanted, atol=1e-12)


@pytest.mark.parametrize("weighting", ["rank", "fully_connected"])
def test_sharded_rows(weighting, rng):
    """Rows over devices, weights on all of them: no gathering, gradients too."""
    leads = {"rank": ((2, 4), (2, 1), (2, 4)), "fully_connected": ((4, 3), (1, 3), (3, 6))}
    arrays = [array.astype("float32") for array in signals(rng, (16, 4), (16, 1))]
    weights = tuple(w.astype("float32") for w in draw_weights(rng, *leads[weighting]))

    def run(x, y, weights):
        return gaunt_tensor_product(x, y, weights=weights, weighting=weighting)

    assert_sharded_equals_single(run, [*arrays, weights], [0, 0, None], bound=1e-5)


def test_bad_weights_are_refused():
    x, y = jnp.ones((5, 4, 9)), jnp.ones((5, 2, 4))
    full = {"weighting": "fully_connected"}
    with pytest.raises(ValueError, match="weighting must be one of 'channelwise', 'rank'"):
        gaunt_tensor_product(x, y, weighting="full")
    with pytest.raises(ValueError, match=r"weights\[0\] must have shape \(\.\.\., 4, C', 3\)"):
        gaunt_tensor_product(x, y, weights=(jnp.ones((3, 4, 3)), None, None), **full)
    with pytest.raises(ValueError, match=r"x must have channels.* got \(9,\)"):
        gaunt_tensor_product(x[0, 0], y, **full)
    with pytest.raises(
        ValueError, match=r"leading axes must broadcast, got mixed x \(5, 3, 9\), mixed y"
    ):
        gaunt_tensor_product(x, y, weights=(jnp.ones((4, 3, 3)), None, None), **full)
    with pytest.raises(ValueError, match=r"got x \(5, 4, 9\), weights\[0\] \(6, 4, 3, 3\)"):
        gaunt_tensor_product(x, y, weights=(jnp.ones((6, 4, 3, 3)), None, None), **full)
    with pytest.raises(ValueError, match=r"shapes \(R, \.\.\., L \+ 1\) with one R.* got None"):
        gaunt_tensor_product(x, y, weighting="rank")
    ranks = (jnp.ones((2, 3)), None, jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"got weights\[0\] \(2, 3\), weights\[2\] \(3, 4\)"):
        gaunt_tensor_product(x, y, weights=ranks, weighting="rank")
    with pytest.raises(ValueError, match=r"leading axes must broadcast, got .*weights\[0\] \(7, 3"):
        gaunt_tensor_product(
            x, y[:, :1], weights=(jnp.ones((2, 7, 3)), None, None), weighting="rank"
        )

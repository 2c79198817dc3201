"""Layers of irreps arrays: equivariance, species, scales, message passing, bad input."""

from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.equivariant.layers.clebsch_gordan import (
    ClebschGordanConvolution,
    ClebschGordanTensorProduct,
    SymmetricContraction,
)
from structlayers.equivariant.layers.gate import Gate
from structlayers.equivariant.layers.irreps_linear import IrrepsLinear
from structlayers.equivariant.layers.norm import IrrepsRMSNorm
from structlayers.equivariant.layers.radial import BesselBasis, GaussianBasis
from structlayers.equivariant.layers.vector_signal import VectorSignalTensorProduct
from structlayers.equivariant.ops.symmetric_contraction import symmetric_contraction
from structlayers.testing import assert_equivariant, error_ratio
from tests.equivariant.irreps_cases import irreps_array, rotate, rotation

MIXED = "4x0e + 4x0o + 4x1o + 4x1e + 4x2e"
LAYERS: dict[str, tuple[nnx.Module, tuple[str, ...]]] = {
    "linear": (
        IrrepsLinear(MIXED, "3x0e + 2x0o + 5x1e", use_bias=True, rngs=nnx.Rngs(0)),
        (MIXED,),
    ),
    "gate": (Gate("4x0e + 2x0o + 3x1o + 2x2e"), ("9x0e + 2x0o + 3x1o + 2x2e",)),
    "norm": (IrrepsRMSNorm(MIXED, rngs=nnx.Rngs(0)), (MIXED,)),
    "product": (
        ClebschGordanTensorProduct(MIXED, "1x1o + 1x2e", lmax=2, rngs=nnx.Rngs(0)),
        (MIXED, "1x1o + 1x2e"),
    ),
    "vector": (
        VectorSignalTensorProduct(4, 2, 2, rngs=nnx.Rngs(0)),
        ("4x0e + 4x1o + 4x2e", "1x0e + 1x1o + 1x2e"),
    ),
    "contraction": (
        SymmetricContraction("2x0e + 2x1o", "0e + 1o + 2e", order=3, rngs=nnx.Rngs(0)),
        ("2x0e + 2x1o",),
    ),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=list(LAYERS))
def test_equivariance(case, rng):
    """Of values and of gradients, under a rotation with an inversion."""
    layer, irreps = case
    args = [irreps_array(rng, each, 6) for each in irreps]
    matrix = rotation(rng)

    @jax.jit
    def value_and_gradient(*args: e3nn.IrrepsArray) -> Any:
        value, pull = jax.vjp(layer, *args)
        return value, pull(value)

    def act(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: rotate(x, matrix, invert=True),
            tree,
            is_leaf=lambda leaf: isinstance(leaf, e3nn.IrrepsArray),
        )

    assert_equivariant(
        value_and_gradient,
        args,
        act_on_inputs=lambda *args: act(args),
        act_on_output=act,
        bound=2e-6,
        # the norm is of order one, and hardly has a gradient along itself
        scale=1.0 if isinstance(layer, IrrepsRMSNorm) else None,
    )


def test_vector_signals_have_the_scale_of_the_inputs(rng):
    """All degrees that the product reaches, with two sets of weights; degree 0 is out of reach."""
    layer = VectorSignalTensorProduct(400, 2, 1, 3, rank=2, rngs=nnx.Rngs(0))
    x, y = (jnp.asarray(rng.standard_normal((20, 400, n)), jnp.float32) for n in (9, 4))
    z = np.asarray(layer(x, y))
    np.testing.assert_array_equal(z[..., 0], 0)
    for degree in (1, 2):
        assert 0.7 < np.mean(z[..., degree**2 : (degree + 1) ** 2] ** 2) < 1.4
    with pytest.raises(ValueError, match="y must have 400 channels or 1"):
        layer(x, y[:, :3])


@pytest.mark.parametrize("kind", [BesselBasis, GaussianBasis])
def test_radial_features_vanish_smoothly_at_the_cutoff(kind):
    layer = kind(6, 4.0, p=6)
    assert not jax.tree.leaves(nnx.state(layer))
    values, first = jax.jvp(layer, (jnp.array([0.5, 3.999, 4.0, 5.0]),), (jnp.ones(4),))
    assert values.shape == (4, 6)
    assert np.all(np.asarray(values[0]) != 0)
    np.testing.assert_allclose(values[1:], 0, atol=1e-6)
    np.testing.assert_allclose(first[1:], 0, atol=1e-3)
    with pytest.raises(ValueError, match="cutoff must be positive, got -1"):
        kind(6, -1.0)


@pytest.mark.parametrize("name", ["linear", "product", "contraction"])
def test_outputs_have_the_scale_of_the_inputs(name):
    """Normal inputs: mean squares near one, every order of every channel counted."""
    layers: dict[str, Any] = {
        "linear": IrrepsLinear("400x0e + 400x1o", "400x0e + 400x1o", rngs=nnx.Rngs(0)),
        "product": ClebschGordanTensorProduct("400x0e + 400x1o", "400x1o", rngs=nnx.Rngs(0)),
        "contraction": SymmetricContraction("400x0e + 400x1o", "1o", order=1, rngs=nnx.Rngs(0)),
    }
    inputs = [e3nn.normal("400x0e + 400x1o", jax.random.key(0), (20,))]
    if name == "product":
        inputs.append(e3nn.normal("400x1o", jax.random.key(1), (20,)))
    outputs = layers[name](*inputs)
    for at in outputs.irreps.slices():
        assert 0.7 < float(jnp.mean(outputs.array[:, at] ** 2)) < 1.4


def test_linear_is_one_matrix_for_each_irrep(rng):
    layer = IrrepsLinear("2x1o + 3x0e + 1x0e", "5x0e + 2x1o", use_bias=True, rngs=nnx.Rngs(0))
    assert {name: kernel.shape for name, kernel in layer.kernels.items()} == {
        "0e": (4, 5),
        "1o": (2, 2),
    }
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(5.0)
    x = irreps_array(rng, "2x1o + 3x0e + 1x0e", 7)
    y = layer(x)
    vectors = x.array[:, :6].reshape(7, 2, 3)
    wanted = np.einsum("bci,cd->bdi", vectors, layer.kernels["1o"][...]).reshape(7, 6)
    assert error_ratio(y.array[:, 5:], wanted) < 1e-6
    scalars = np.asarray(x.array[:, 6:]) @ np.asarray(layer.kernels["0e"][...]) + np.arange(5)
    assert error_ratio(y.array[:, :5], scalars) < 1e-6


@pytest.mark.parametrize("kind", ["linear", "contraction"])
def test_species_choose_their_weights(kind, rng):
    """Rows of a species equal a layer of its weights alone; unknown ones are refused, or NaN."""
    irreps = "4x0e + 4x1o"
    x = irreps_array(rng, irreps, 5)
    species = jnp.array([0, 2, 1, 2, 0])
    if kind == "linear":
        layer = IrrepsLinear(irreps, irreps, num_species=3, rngs=nnx.Rngs(0))
        y = layer(x, species)
        alone = IrrepsLinear(irreps, irreps, rngs=nnx.Rngs(1))
        for name, kernel in layer.kernels.items():
            alone.kernels[name][...] = kernel[2]
        wanted = alone(x)
    else:
        layer = SymmetricContraction(irreps, "0e + 1o", order=2, num_species=3, rngs=nnx.Rngs(0))
        y = layer(x, species)
        weights = [w[2] for w in layer.weights]
        wanted = symmetric_contraction(x, weights, irreps_out="0e + 1o")
    rows = np.flatnonzero(np.asarray(species) == 2)
    assert error_ratio(y.array[rows], wanted.array[rows]) < 1e-6
    for unknown in (3, -1):
        with pytest.raises(ValueError, match=f"species must be from 0 to 2, got .*{unknown}"):
            layer(x, species.at[1].set(unknown))
        bad = nnx.jit(lambda layer, x, s: layer(x, s))(layer, x, species.at[1].set(unknown)).array
        assert np.isnan(bad[1]).all()
        assert np.isfinite(bad[2:]).all()


def graph(rng: np.random.Generator) -> dict[str, Any]:
    """Five nodes, twelve edges with harmonics and radial features."""
    vectors = e3nn.IrrepsArray("1o", jnp.asarray(rng.standard_normal((12, 3)), jnp.float32))
    return {
        "nodes": irreps_array(rng, "3x0e + 3x1o", 5),
        "harmonics": e3nn.spherical_harmonics(e3nn.s2_irreps(2), vectors, normalize=True),
        "radial": jnp.asarray(rng.standard_normal((12, 4)), jnp.float32),
        "senders": jnp.asarray(rng.integers(0, 5, 12)),
        "receivers": jnp.asarray(rng.integers(0, 5, 12)),
    }


CONVOLUTION = ClebschGordanConvolution(
    "3x0e + 3x1o",
    "0e + 1o + 2e",
    "4x0e + 4x1o + 4x1e",
    radial_features=4,
    radial_hidden=(8,),
    num_neighbors=2.4,
    rngs=nnx.Rngs(0),
)


def test_convolution_is_the_sum_over_edges(rng):
    """Written out with e3nn's product, one edge after the other."""
    given = graph(rng)
    y = CONVOLUTION(**given)
    hidden = 1.6765 * jax.nn.silu(CONVOLUTION.radial[0](given["radial"]))
    weights = np.asarray(CONVOLUTION.radial[1](hidden)).reshape(12, 3, -1)
    kept = ["0e", "1o", "1e"]
    multiply = jax.jit(lambda x, y: e3nn.tensor_product(x, y, filter_ir_out=kept))
    sums: Any = 0.0
    irreps = None
    for edge, (s, r) in enumerate(zip(given["senders"], given["receivers"], strict=True)):
        rows = []
        for channel in range(3):
            x = e3nn.IrrepsArray("0e + 1o", given["nodes"].mul_to_axis(3).array[s, channel])
            product = multiply(x, given["harmonics"][edge])
            widths = [ir.dim for mul, ir in product.irreps for _ in range(mul)]
            spread = np.repeat(weights[edge, channel], widths)
            rows.append(np.asarray(product.array) * spread)
        message = e3nn.IrrepsArray(product.irreps, jnp.asarray(np.stack(rows)))
        each = e3nn.Irreps([(1, ir) for mul, ir in product.irreps for _ in range(mul)])
        message = e3nn.IrrepsArray(each, message.array).axis_to_mul().regroup()
        irreps = message.irreps
        sums = sums + np.eye(5)[:, [int(r)]] * np.asarray(message.array)[None]
    inner = e3nn.IrrepsArray(irreps, jnp.asarray(sums / np.sqrt(2.4), jnp.float32))
    assert error_ratio(y.array, CONVOLUTION.mix(inner).array) < 1e-6


def test_convolution_is_equivariant_and_knows_no_order_of_edges(rng):
    given, matrix = graph(rng), rotation(rng)
    y = CONVOLUTION(**given)
    turned = given | {
        name: rotate(given[name], matrix, invert=True) for name in ("nodes", "harmonics")
    }
    assert error_ratio(CONVOLUTION(**turned).array, rotate(y, matrix, invert=True).array) < 2e-6
    order = rng.permutation(12)
    edges = {n: given[n][order] for n in ("harmonics", "radial", "senders", "receivers")}
    assert error_ratio(CONVOLUTION(**(given | edges)).array, y.array) < 1e-6


def test_masked_edges_are_no_edges(rng):
    """Not even where their features are not finite, nor for the gradients of the parameters."""
    given = graph(rng)
    fewer = {n: given[n][:9] for n in ("harmonics", "radial", "senders", "receivers")}
    mask = jnp.arange(12) < 9
    harmonics = given["harmonics"]
    broken = given | {
        "radial": given["radial"].at[9:].set(jnp.nan),
        "harmonics": e3nn.IrrepsArray(harmonics.irreps, harmonics.array.at[9:].set(jnp.nan)),
    }

    @nnx.value_and_grad
    def square(layer, given, mask=None):
        return jnp.sum(layer(**given, mask=mask).array ** 2)

    found, wanted = square(CONVOLUTION, broken, mask), square(CONVOLUTION, given | fewer)
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert error_ratio(one, other) < 1e-5
    with pytest.raises(TypeError, match="mask must be bool, got int32"):
        CONVOLUTION(**given, mask=jnp.ones(12, jnp.int32))


def test_receivers_that_cannot_be_checked_lose_no_message_of_a_convolution(rng):
    given = graph(rng)
    call = nnx.jit(lambda layer, given: layer(**given).array)
    assert np.isfinite(call(CONVOLUTION, given)).all()
    outside = given | {"receivers": given["receivers"].at[3].set(5)}
    assert np.isnan(call(CONVOLUTION, outside)).all()


def test_silu_gain_keeps_the_second_moment():
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    moment = np.sum(weights * (nodes / (1 + np.exp(-nodes))) ** 2) / np.sqrt(2 * np.pi)
    assert abs(1.6765 * np.sqrt(moment) - 1) < 1e-3


def test_norm_divides_by_the_root_mean_square(rng):
    norm = IrrepsRMSNorm("3x0e + 2x1o", epsilon=1e-12, rngs=nnx.Rngs(0))
    assert norm.scale is not None
    norm.scale[...] = jnp.array([1.0, 2.0, 3.0, 1.0, 1.0])
    x = irreps_array(rng, "3x0e + 2x1o", 4)
    y = norm(x)
    vectors = np.asarray(x.array[:, 3:])
    wanted = vectors / np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    assert error_ratio(y.array[:, 3:], wanted) < 1e-6
    scalars = np.asarray(x.array[:, :3])
    wanted = scalars / np.sqrt(np.mean(scalars**2, axis=1, keepdims=True)) * [1, 2, 3]
    assert error_ratio(y.array[:, :3], wanted) < 1e-6
    gradient = jax.grad(lambda x: norm(x).array.sum())(e3nn.zeros_like(x))
    assert np.isfinite(gradient.array).all()


def test_gate_by_hand():
    gate = Gate("1x0e + 1x1o", even_act=jnp.sin, gate_act=jnp.cos)
    x = e3nn.IrrepsArray("2x0e + 1x1o", jnp.array([0.3, 0.7, 1.0, 2.0, 3.0]))
    y = gate(x).array
    ratio = y[1:] / jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    # activations are scaled to a second moment of one
    second = np.sqrt((1 + np.exp(-2)) / 2)
    assert abs(float(ratio[0]) - np.cos(0.7) / second) < 5e-3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: IrrepsLinear("0e", "1o", rngs=nnx.Rngs(0)),
            ValueError,
            "irreps_out has 1o, which",
        ),
        (
            lambda: IrrepsLinear("0e", "0e", num_species=0, rngs=nnx.Rngs(0)),
            ValueError,
            "num_species",
        ),
        (lambda: IrrepsRMSNorm("0e", epsilon=0.0, rngs=nnx.Rngs(0)), ValueError, "epsilon must be"),
        (
            lambda: ClebschGordanTensorProduct("2x0e + 1x1o", "1o", rngs=nnx.Rngs(0)),
            ValueError,
            "irreps1 must have irreps of one multiplicity, got 2x0e",
        ),
        (
            lambda: ClebschGordanTensorProduct("2x0e", "3x1o", rngs=nnx.Rngs(0)),
            ValueError,
            "equal multiplicities, or one of them 1, got 2 and 3",
        ),
        (
            lambda: ClebschGordanConvolution(
                "2x0e", "2x1o", "1o", radial_features=1, rngs=nnx.Rngs(0)
            ),
            ValueError,
            "irreps_edges must have multiplicity 1",
        ),
        (
            lambda: IrrepsLinear("0e", "0e", rngs=nnx.Rngs(0))(
                e3nn.IrrepsArray("2x0e", jnp.ones((1, 2)))
            ),
            ValueError,
            "inputs must have irreps 1x0e, got 2x0e",
        ),
        (
            lambda: IrrepsLinear("0e", "0e", rngs=nnx.Rngs(0))(
                e3nn.IrrepsArray("0e", jnp.ones((1, 1))), jnp.zeros(1, int)
            ),
            ValueError,
            "species must be no species",
        ),
        (
            lambda: IrrepsLinear("0e", "0e", num_species=2, rngs=nnx.Rngs(0))(
                e3nn.IrrepsArray("0e", jnp.ones((1, 1))), jnp.zeros(1)
            ),
            TypeError,
            "species must hold integers, got float32",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

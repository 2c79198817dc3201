"""Products of vector signals: harmonics, odd couplings, the cross product, path weights, parity."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.grids import SphericalGrid
from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.ops.vector_signal import (
    dispatcher,
    vector_signal_table,
    vector_signal_tensor_product,
)
from structlayers.equivariant.path_weights import factor_path_weights
from structlayers.equivariant.paths import count_paths, tensor_product_paths
from structlayers.equivariant.vector_harmonics import (
    vector_gaunt_factor,
    vector_spherical_harmonics,
)
from structlayers.testing import assert_equivariant, assert_gradients_match, error_ratio
from tests.equivariant.irreps_cases import irreps_array, rotate, rotation, signal

LOWEST = (-1, -1, -1)
OFFSETS = [LOWEST, (-1, 0, -1), (0, 0, 1), (1, 1, 1), (-1, -1, 0), (1, -1, -1)]


def test_vector_harmonics_are_orthonormal():
    """All offsets together, on a grid that is exact for their products."""
    grid = SphericalGrid.gauss_legendre(10)
    fields = [vector_spherical_harmonics(4, grid.points, offset) for offset in (-1, 0, 1)]
    # degree 0 has the radial field only
    flat = np.concatenate([fields[0][..., 1:], fields[1][..., 1:], fields[2]], axis=-1)
    products = np.einsum("n,ani,anj->ij", grid.weights, flat, flat)
    np.testing.assert_allclose(products, np.eye(73), atol=1e-13)


def test_fields_are_what_their_names_say(rng):
    """Offset 0 is tangential; degree 0 is radial; degree 1 of offset -1 is constant."""
    points = rng.standard_normal((7, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tangential = vector_spherical_harmonics(3, points, 0)
    assert np.abs(np.einsum("na,anj->nj", points, tangential)).max() < 1e-14
    radial = vector_spherical_harmonics(1, points, 1)[..., 0]
    np.testing.assert_allclose(radial.T * np.sqrt(4 * np.pi), points, atol=1e-14)
    constant = vector_spherical_harmonics(1, points, -1)[..., 1:]
    wanted = np.broadcast_to(np.eye(3)[:, None], (3, 7, 3)) / np.sqrt(4 * np.pi)
    np.testing.assert_allclose(constant, wanted, atol=1e-14)


def test_every_odd_coupling_is_there_up_to_degree_6():
    paths = tensor_product_paths(range(7), range(7), range(13))
    factors = {path: vector_gaunt_factor(path, LOWEST) for path in paths}
    odd = [factor for path, factor in factors.items() if sum(path) % 2]
    assert len(odd) == count_paths(6, "odd")
    assert min(odd) > 0.5
    assert all(factor == 0 for path, factor in factors.items() if sum(path) % 2 == 0)


@pytest.mark.parametrize("implementation", ["xla", "clebsch_gordan", "reference"])
def test_cross_product(implementation, rng):
    """Degrees 1 and 1 to 1, in float64."""
    with jax.enable_x64(True):
        a, b = rng.standard_normal((2, 5, 3))
        x, y = (jnp.asarray(np.pad(v, ((0, 0), (1, 0)))) for v in (a, b))
        z = vector_signal_tensor_product(x, y, lmax=1, implementation=implementation)
    z = np.asarray(z)
    assert error_ratio(z[:, 1:] * np.sqrt(4 * np.pi), np.cross(a, b)) < 1e-14
    np.testing.assert_array_equal(z[:, 0], 0)


@pytest.mark.parametrize("offsets", OFFSETS)
def test_grid_equals_coefficients(offsets, rng):
    """Float64, degrees of odd and unequal sizes, cut and full products."""
    with jax.enable_x64(True):
        x, y = (jnp.asarray(rng.standard_normal((3, size))) for size in (16, 9))
        for lmax in (0, 2, 5):
            wanted = vector_signal_tensor_product(
                x, y, lmax=lmax, offsets=offsets, implementation="reference"
            )
            for name in ("xla", "clebsch_gordan"):
                z = vector_signal_tensor_product(
                    x, y, lmax=lmax, offsets=offsets, implementation=name
                )
                np.testing.assert_allclose(z, wanted, atol=1e-13)
    table = vector_signal_table((3, 2, 5), offsets)
    assert {sum(path) % 2 for path in table.paths} == {sum(offsets) % 2}


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_path_weights_are_recovered(lmax, rng):
    """Any Clebsch-Gordan product as a sum of scalar and vector products, in float64."""
    with jax.enable_x64(True):
        x, y = (jnp.asarray(rng.standard_normal((3, (lmax + 1) ** 2))) for _ in range(2))
        paths = tensor_product_paths(*[range(lmax + 1)] * 3)
        weights = rng.standard_normal(len(paths))
        wanted = clebsch_gordan_tensor_product(x, y, weights=weights, lmax=lmax)
        even, odd = factor_path_weights(weights, lmax, lmax, lmax)
        rows = x[:, None], y[:, None]
        z = gaunt_tensor_product(*rows, weights=even, lmax=lmax).sum(1)
        cross = vector_signal_tensor_product(*rows, weights=odd, lmax=lmax, implementation="xla")
        z = z + cross.sum(1)
    assert len(odd[0]) == lmax**2
    assert error_ratio(z, wanted) < 1e-12


@pytest.mark.parametrize("implementation", ["xla", "clebsch_gordan"])
def test_gradients(implementation, rng):
    """Of both factors and all weights, whose leading axes broadcast."""
    weights = tuple(
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((3, 3), (2,), (4, 1, 3))
    )
    args = (signal(rng, 2, 4, 1), signal(rng, 1, 3), weights)

    def product(name):
        return jax.jit(
            lambda x, y, w: vector_signal_tensor_product(
                x, y, weights=w, lmax=2, implementation=name
            )
        )

    assert_gradients_match(product(implementation), product("reference"), args, 1e-6)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("offsets", [LOWEST, (-1, 0, -1)])
def test_equivariance(offsets, invert, rng):
    """Odd couplings change the parity, even ones keep it; in float32 at degree 4."""
    x = irreps_array(rng, "2x0e + 2x1o + 2x2e + 2x3o + 2x4e", 6)
    y = irreps_array(rng, "0o + 1e + 2o", 6)
    matrix = rotation(rng)

    def product(x, y):
        return vector_signal_tensor_product(x, y, lmax=4, offsets=offsets, implementation="xla")

    first = product(x, y).irreps[0].ir
    assert str(first) == ("0e" if sum(offsets) % 2 else "0o")
    assert_equivariant(
        product,
        (x, y),
        act_on_inputs=lambda *args: [rotate(arg, matrix, invert=invert) for arg in args],
        act_on_output=lambda z: rotate(z, matrix, invert=invert),
        bound=1e-6,
    )


@pytest.mark.parametrize(
    ("precision", "bound"), [("highest", 3e-7), ("tf32", 1e-3), ("3xtf32", 1e-6), ("bf16", 8e-3)]
)
def test_precision(precision, bound, rng):
    x, y = signal(rng, 4, 50), signal(rng, 4, 50)
    z = vector_signal_tensor_product(x, y, lmax=4, precision=precision, implementation="xla")
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(v, np.float64)) for v in (x, y)]
        wanted = vector_signal_tensor_product(*wide, lmax=4, implementation="reference")
    assert error_ratio(z, wanted) < bound


@pytest.mark.parametrize("implementation", ["xla", "clebsch_gordan", None])
def test_half_precision_vmap_and_empty(implementation, rng):
    product = functools.partial(vector_signal_tensor_product, implementation=implementation)
    x, y = signal(rng, 2, 50), signal(rng, 2, 50)
    z = product(x, y)
    half = product(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert error_ratio(half, z) < 1e-2
    assert error_ratio(jax.jit(jax.vmap(product))(x, y), z) < 2e-7
    assert product(x[:0], y[:0]).shape == (0, 25)


def test_none_takes_the_tensor_where_it_was_measured():
    def choice(lmax, platform, precision=jax.lax.Precision.HIGHEST):
        x = jax.ShapeDtypeStruct((1000, (lmax + 1) ** 2), "float32")
        table = vector_signal_table((lmax, lmax, lmax), LOWEST)
        options = {"table": table, "offsets": LOWEST, "precision": precision}
        return dispatcher.choose(x, x, platform=platform, **options).name

    assert [choice(lmax, "cpu") for lmax in (1, 4, 6)] == ["clebsch_gordan"] * 2 + ["xla"]
    assert choice(4, "gpu") == choice(4, "tpu") == choice(4, "cpu", "tf32") == "xla"


X = np.ones((2, 4), np.float32)
FIELD = e3nn.IrrepsArray("0e + 1o", jnp.ones((2, 4)))
PSEUDO = e3nn.IrrepsArray("0e + 1e", jnp.ones((2, 4)))
MISSING = e3nn.IrrepsArray("1o", jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X[:, :2], X), {}, ValueError, r"x must have shape \(\*B, \(L \+ 1\)\^2\)"),
        ((X, X > 0), {}, TypeError, "y must be real floating point, got bool"),
        ((X, X), {"offsets": (0, 0, 2)}, ValueError, "offsets must be three of -1, 0 and 1"),
        ((X, X), {"offsets": (0, 0, 0)}, ValueError, "is zero: two tangential fields"),
        (
            (X, X),
            {"weights": (None, np.ones(3, np.float32), None)},
            ValueError,
            r"weights\[1\] must",
        ),
        ((X, X), {"weights": (None, None)}, ValueError, "weights must have three members"),
        ((MISSING, MISSING), {}, ValueError, "x must hold degrees 0 to L .* got 1x1o"),
        ((FIELD, PSEUDO), {}, ValueError, "x and y must be fields on the same kind of directions"),
        (
            (X, X),
            {"precision": "bf16", "implementation": "clebsch_gordan"},
            NotImplementedError,
            "in 'bf16'",
        ),
        ((X, X), {"lmax": 3}, ValueError, "lmax must be at most 2, the degree of the product"),
    ],
)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        vector_signal_tensor_product(*args, **options)

"""Matrix products: the basis, both parities of couplings, gradients, parity, bad input."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.matrix_basis import matrix_basis, matrix_factor
from structlayers.equivariant.ops.matrix import dispatcher, matrix_table, matrix_tensor_product
from structlayers.equivariant.paths import count_paths
from structlayers.testing import assert_equivariant, assert_gradients_match, error_ratio
from tests.equivariant.irreps_cases import irreps_array, rotate, rotation, signal


def test_basis_is_orthonormal_and_of_one_symmetry():
    basis = matrix_basis(6, 3)
    np.testing.assert_allclose(np.einsum("mij,nij->mn", basis, basis), np.eye(49), atol=1e-14)
    for degree in range(7):
        part = basis[degree**2 : (degree + 1) ** 2]
        np.testing.assert_allclose(part.swapaxes(1, 2), (-1) ** degree * part, atol=1e-15)


def test_degree_one_matrices_generate_rotations(rng):
    """Of spin 1 they are the cross product with a vector, over sqrt(2)."""
    vector, other = rng.standard_normal((2, 3))
    matrix = np.einsum("m,mij->ij", vector, matrix_basis(1, 1)[1:])
    crossed = np.cross(vector, other) / np.sqrt(2)
    sign = np.sign(np.dot(matrix @ other, crossed))
    np.testing.assert_allclose(matrix @ other, sign * crossed, atol=1e-14)


@pytest.mark.parametrize("couplings", ["all", "even", "odd"])
@pytest.mark.parametrize("spin", [None, 4])
def test_equals_coefficients(couplings, spin, rng):
    """Float64; the matrices are those of the path table, in the smallest spin and a larger one."""
    with jax.enable_x64(True):
        x, y = (jnp.asarray(rng.standard_normal((3, size))) for size in (16, 9))
        for lmax in (0, 3, 5):
            z, dense, wanted = (
                matrix_tensor_product(
                    x, y, lmax=lmax, couplings=couplings, spin=spin, implementation=name
                )
                for name in ("xla", "clebsch_gordan", "reference")
            )
            np.testing.assert_allclose(z, wanted, atol=1e-13)
            np.testing.assert_allclose(dense, wanted, atol=1e-13)


def test_even_and_odd_add_up(rng):
    x, y = signal(rng, 2, 4), signal(rng, 3, 4)
    product = functools.partial(matrix_tensor_product, implementation="xla")
    even, odd = (product(x, y, couplings=part) for part in ("even", "odd"))
    assert error_ratio(even + odd, product(x, y)) < 3e-7


def test_no_coupling_is_missing_up_to_degree_4():
    """And the first accidents are those of degree 5, where 6j symbols vanish."""
    for lmax in range(1, 5):
        table = matrix_table((lmax, lmax, 2 * lmax), lmax, "all")
        assert len(table.paths) == count_paths(lmax)
    cut = matrix_table((5, 5, 5), 3, "all")
    assert (3, 5, 5) not in cut.paths
    assert abs(matrix_factor((3, 5, 5), 3)) < 1e-14
    assert abs(matrix_factor((3, 5, 5), 5)) > 1e-3


def test_gradients(rng):
    weights = tuple(
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((3, 3), (2,), (4, 1, 3))
    )
    args = (signal(rng, 2, 4, 1), signal(rng, 1, 3), weights)

    def product(name):
        return jax.jit(
            lambda x, y, w: matrix_tensor_product(x, y, weights=w, lmax=2, implementation=name)
        )

    assert_gradients_match(product("xla"), product("reference"), args, 1e-6)


@pytest.mark.parametrize("invert", [False, True])
def test_equivariance(invert, rng):
    """Irreps arrays keep true and pseudo tensors apart."""
    x, y = irreps_array(rng, "2x0e + 2x1o + 2x2e", 6), irreps_array(rng, "0o + 1e", 6)
    matrix = rotation(rng)
    assert str(matrix_tensor_product(x, y, lmax=2).irreps) == "2x0o+2x1e+2x2o+2x0e+2x1o+2x2e"
    assert_equivariant(
        lambda x, y: matrix_tensor_product(x, y, lmax=2, implementation="xla"),
        (x, y),
        act_on_inputs=lambda *args: [rotate(arg, matrix, invert=invert) for arg in args],
        act_on_output=lambda z: rotate(z, matrix, invert=invert),
        bound=1e-6,
    )


def test_pseudo_fields_stay_together(rng):
    """Of fields on axial directions all couplings have one parity: nothing to keep apart."""
    x = irreps_array(rng, "0e + 1e", 6)
    z = matrix_tensor_product(x, x)
    assert str(z.irreps) == "1x0e+1x1e+1x2e"
    assert error_ratio(z.array, matrix_tensor_product(x.array, x.array)) == 0


@pytest.mark.parametrize("implementation", ["xla", "clebsch_gordan", None])
def test_empty_half_and_vmap(implementation, rng):
    product = functools.partial(matrix_tensor_product, implementation=implementation)
    x, y = signal(rng, 1, 5), signal(rng, 2, 5)
    z = product(x, y)
    assert product(x[:0], y[:0]).shape == (0, 16)
    half = product(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert error_ratio(half, z) < 1e-2
    assert error_ratio(jax.vmap(product)(x, y), z) < 3e-7


def test_none_takes_the_tensor_where_it_was_measured():
    def choice(lmax, platform):
        x = jax.ShapeDtypeStruct((1000, (lmax + 1) ** 2), "float32")
        options = {"table": matrix_table((lmax,) * 3, lmax, "all"), "spin": lmax}
        return dispatcher.choose(x, x, platform=platform, **options).name

    assert [choice(lmax, "cpu") for lmax in (1, 4, 6)] == ["clebsch_gordan"] * 2 + ["xla"]
    assert choice(4, "gpu") == choice(4, "tpu") == "xla"


X = np.ones((2, 9), np.float32)
VECTORS = e3nn.IrrepsArray("2x1o", jnp.ones((2, 6)))


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (
            (X, X),
            {"spin": 1},
            ValueError,
            r"spin must be at least 2 for degrees \(2, 2, 4\), got 1",
        ),
        ((X, X), {"spin": 1.5}, Exception, "spin"),
        ((X, X), {"couplings": "none"}, ValueError, "couplings must be one of"),
        ((X, X.astype(np.float16)), {}, TypeError, "y must have the dtype of x, float32"),
        ((VECTORS, VECTORS), {}, ValueError, "x must hold degrees 0 to L"),
    ],
)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        matrix_tensor_product(*args, **options)

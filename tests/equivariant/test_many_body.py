"""Powers on one grid against products path by path; derivatives, symmetry, bad input."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant import (
    SphericalGrid,
    gaunt_tensor_product,
    many_body_product,
    spherical_harmonics,
)
from structlayers.equivariant.ops.many_body import dispatcher
from structlayers.testing import assert_close, assert_equivariant, error_ratio
from tests.equivariant.cases import rotation, signal

NAMES = ("xla", "antipodal", "separable", "fourier")


@functools.cache
def _path_by_path(lmax: int, order: int, lmax_out: int) -> np.ndarray:
    x = signal(np.random.default_rng(lmax), 4, lmax=lmax)
    with jax.enable_x64(True):
        run = functools.partial(many_body_product, order=order, lmax=lmax_out)
        return np.asarray(jax.jit(functools.partial(run, implementation="reference"))(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("lmax", "order", "lmax_out"), [(1, 4, 4), (2, 3, 1)])
def test_equal_to_products_path_by_path(name, lmax, order, lmax_out):
    x = signal(np.random.default_rng(lmax), 4, lmax=lmax)
    wanted = _path_by_path(lmax, order, lmax_out)
    with jax.enable_x64(True):
        found = many_body_product(x, order=order, lmax=lmax_out, implementation=name)
        assert found.shape == (4, order, (lmax_out + 1) ** 2)
        np.testing.assert_allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())
        pair = gaunt_tensor_product(x, x, lmax=min(lmax_out, 2 * lmax))
        np.testing.assert_allclose(found[:, 1, : pair.shape[1]], pair, atol=1e-12)


def test_powers_are_those_of_values(rng):
    """Without truncation the third power of a signal has the cubes of its values."""
    x = signal(rng, 2, lmax=1)
    grid = SphericalGrid.design(5)
    with jax.enable_x64(True):
        powers = np.asarray(many_body_product(x, order=3, lmax=3))
    values = powers @ spherical_harmonics(3, grid.points).T
    np.testing.assert_allclose(values[:, 1], values[:, 0] ** 2, atol=1e-13)
    np.testing.assert_allclose(values[:, 2], values[:, 0] ** 3, atol=1e-13)


@functools.cache
def _derivatives(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    x, c = signal(rng, 2, lmax=1), signal(rng, 2, lmax=1)
    weights = rng.standard_normal((3, 2))

    def energy(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.vdot(many_body_product(x, weights=w, lmax=1, implementation=name), c)

    def force(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jax.grad(energy)(x, w)))

    def third(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jax.grad(force)(x, w) ** 2)

    with jax.enable_x64(True):
        every = jax.jit(lambda x, w: [jax.grad(f, (0, 1))(x, w) for f in (energy, third)])
        return [np.asarray(g) for g in jax.tree.leaves(every(x, weights))]


@pytest.mark.parametrize("name", ["xla", "antipodal"])
def test_derivatives_to_third_order(name):
    assert_close("derivatives", _derivatives(name), _derivatives("reference"), 1e-10)


@pytest.mark.parametrize(
    ("precision", "bound"), [(None, 5e-7), ("3xtf32", 1e-6), ("tf32", 1.5e-3), ("bf16", 1e-2)]
)
def test_rounding(precision, bound, rng):
    x = signal(rng, 64, lmax=3, dtype="float32")
    found = many_body_product(x, order=3, lmax=2, precision=precision)
    with jax.enable_x64(True):
        wanted = many_body_product(x.astype("float64"), order=3, lmax=2)
    for power in range(1, 3):
        assert error_ratio(found[:, power], wanted[:, power]) <= bound


def test_weighted_sum(rng):
    x, w = signal(rng, 5, 4, lmax=2), rng.standard_normal((5, 4, 3, 2))
    with jax.enable_x64(True):
        powers = many_body_product(x, order=3, lmax=1)
        wanted = np.einsum("ncpk,ncpk->nck", powers, w[..., [0, 1, 1, 1]])
        np.testing.assert_allclose(
            many_body_product(x, lmax=1, weights=w), wanted, atol=1e-12 * np.abs(wanted).max()
        )
        shared = many_body_product(x, lmax=1, weights=w[0])
        np.testing.assert_allclose(shared[0], wanted[0], atol=1e-11)


@pytest.mark.parametrize("inverts", [False, True])
def test_equivariance_of_values_and_gradients(inverts, rng):
    x, c = (signal(rng, 16, lmax=3, dtype="float32") for _ in range(2))
    w = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    matrix = rotation(3, inverts=inverts)

    def act(*arrays):
        return tuple((np.asarray(a, np.float64) @ matrix.T).astype("float32") for a in arrays)

    def run(x, c):
        z, pull = jax.vjp(lambda x: many_body_product(x, weights=w), x)
        return z, *pull(c)

    assert_equivariant(
        run, (x, c), act_on_inputs=act, act_on_output=lambda out: act(*out), bound=1e-6
    )


def test_irreps_arrays(rng):
    x = e3nn.IrrepsArray("4x0e+4x1o", jnp.asarray(rng.standard_normal((5, 16)), jnp.float32))
    weights = jnp.ones((4, 2, 3))
    z = many_body_product(x, weights=weights, lmax=2)
    assert str(z.irreps) == "4x0e+4x1o+4x2e"
    plain = many_body_product(x.mul_to_axis().array, weights=weights, lmax=2)
    np.testing.assert_array_equal(z.mul_to_axis().array, plain)
    pseudo = e3nn.IrrepsArray("0o+1e", jnp.ones(4))
    assert many_body_product(pseudo, weights=jnp.ones((1, 2))).irreps == "0o+1e"
    with pytest.raises(ValueError, match="x must have values of even parity"):
        many_body_product(pseudo, order=2)


def test_no_rows():
    assert many_body_product(jnp.zeros((0, 4)), order=2).shape == (0, 2, 4)


def test_bad_input_is_refused():
    x = jnp.ones((5, 9))
    with pytest.raises(ValueError, match="order or weights must be given"):
        many_body_product(x)
    with pytest.raises(ValueError, match=r"weights must have shape \(\.\.\., 3, lmax \+ 1\)"):
        many_body_product(x, order=3, weights=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"weights must have shape \(\.\.\., 2, 3\).*got \(2, 4\)"):
        many_body_product(x, weights=jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"weights must have shape \(\.\.\., nu, lmax \+ 1\)"):
        many_body_product(x, weights=jnp.ones(3))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        many_body_product(x, order=0)
    with pytest.raises(ValueError, match="lmax must be at most 4"):
        many_body_product(x, order=2, lmax=5)
    with pytest.raises(ValueError, match=r"T = nu L \+ lmax = 8, got one of 32 points exact to 7"):
        many_body_product(x, order=3, lmax=2, grid=SphericalGrid.gauss_legendre(7))
    with pytest.raises(ValueError, match="leading axes must broadcast"):
        many_body_product(x, weights=jnp.ones((4, 2, 3)))


def test_the_choice_can_be_asked():
    def choice(lmax: int, platform: str) -> str:
        x = jax.ShapeDtypeStruct((1000, (lmax + 1) ** 2), "float32")
        options = {"grid": None, "precision": jax.lax.Precision.HIGHEST, "platform": platform}
        return dispatcher.choose(x, order=3, lmax=lmax, **options).name

    assert [choice(lmax, "cpu") for lmax in (1, 7, 8)] == ["xla", "xla", "antipodal"]
    assert [choice(lmax, "gpu") for lmax in (1, 7, 8)] == ["xla", "xla", "xla"]

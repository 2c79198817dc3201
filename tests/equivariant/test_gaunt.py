"""The Gaunt product: exact coefficients, derivatives, symmetries, precisions, IrrepsArray."""

import functools
import re
import time
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers.equivariant import (
    SphericalGrid,
    clebsch_gordan,
    clebsch_gordan_tensor_product,
    gaunt_tensor_product,
    tensor_product_paths,
)
from structlayers.equivariant.grids import KINDS
from structlayers.equivariant.ops.gaunt import dispatcher
from structlayers.equivariant.tables import dense_gaunt
from structlayers.equivariant.wigner import gaunt_factor
from structlayers.equivariant.xla import products
from structlayers.testing import assert_close, assert_equivariant, error_ratio
from tests.equivariant.cases import rotation, signal

FORMS = [
    (name, kind)
    for name in ("xla", "antipodal", "separable")
    for kind in (None, *KINDS)
    if name != "separable" or kind not in ("design", "lebedev")
]
NAMES = ("xla", "antipodal", "separable", "clebsch_gordan")
LAWS = [(0, 0, 0), (1, 1, 2), (3, 2, 1), (3, 3, 3)]


def exact(x: np.ndarray, y: np.ndarray, lmax: int) -> np.ndarray:
    """By the table of exact coefficients, in NumPy float64."""
    l1, l2 = (round(array.shape[-1] ** 0.5) - 1 for array in (x, y))
    return np.einsum("...i,...j,ijk->...k", x, y, dense_gaunt(l1, l2, lmax), optimize=True)


@pytest.mark.parametrize(("name", "kind"), [*FORMS, ("fourier", "design"), ("sparse", "design")])
def test_equal_to_exact_coefficients(name, kind, rng):
    with jax.enable_x64(True):
        for l1, l2, l3 in LAWS:
            x, y = signal(rng, 3, lmax=l1), signal(rng, 3, lmax=l2)
            found = gaunt_tensor_product(x, y, lmax=l3, grid=kind, implementation=name)
            np.testing.assert_allclose(found, exact(x, y, l3), atol=1e-12)


@pytest.mark.parametrize("name", ["reference", "clebsch_gordan"])
def test_sums_over_paths_equal_exact_coefficients(name, rng):
    x, y = signal(rng, 3, lmax=3), signal(rng, 3, lmax=2)
    with jax.enable_x64(True):
        found = gaunt_tensor_product(x, y, lmax=4, implementation=name)
    np.testing.assert_allclose(found, exact(x, y, 4), atol=1e-13)


def test_equal_to_exact_coefficients_up_to_degree_6():
    """Every single product of two harmonics, all of L1, L2 <= 6 and L3 <= 12 at once."""
    one = np.eye(49)
    with jax.enable_x64(True):
        found = gaunt_tensor_product(one[:, None], one[None], implementation="xla")
    np.testing.assert_allclose(found, dense_gaunt(6, 6, 12), atol=1e-12)


@functools.cache
def _derivatives(name: str) -> list[np.ndarray]:
    """First and third derivatives of a cubic function of the product."""
    rng = np.random.default_rng(3)
    x, y, c = (signal(rng, 2, lmax=lmax) for lmax in (2, 1, 2))

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.vdot(gaunt_tensor_product(x, y, lmax=2, implementation=name) ** 3, c)

    def first(x: jax.Array, y: jax.Array) -> jax.Array:
        gx, gy = jax.grad(loss, (0, 1))(x, y)
        return jnp.vdot(gx, jnp.sin(x)) + jnp.vdot(gy, y**2)

    def second(x: jax.Array, y: jax.Array) -> jax.Array:
        gx, gy = jax.grad(first, (0, 1))(x, y)
        return jnp.vdot(gx, jnp.cos(x)) + jnp.vdot(gy, y**3)

    def every(x: jax.Array, y: jax.Array) -> list[jax.Array]:
        return [*jax.grad(loss, (0, 1))(x, y), *jax.grad(second, (0, 1))(x, y)]

    with jax.enable_x64(True):
        return [np.asarray(g) for g in jax.jit(every)(x, y)]


@pytest.mark.parametrize("name", ["xla", "separable", "sparse"])
def test_derivatives_to_third_order(name):
    """Against the table of exact coefficients, in float64."""
    assert_close("derivatives", _derivatives(name), _derivatives("clebsch_gordan"), 1e-10)


def test_forward_mode_equals_reverse_mode(rng):
    with jax.enable_x64(True):
        x, y, dx = (jnp.asarray(signal(rng, lmax=2)) for _ in range(3))

        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(gaunt_tensor_product(x, y) ** 2)

        forward = jax.jvp(jax.grad(loss), (x,), (dx,))[1]
        reverse = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), dx))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-12)


@pytest.mark.parametrize("lmax", [2, 8])
@pytest.mark.parametrize("name", ["xla", "antipodal", "separable"])
def test_float32_rounding(name, lmax, rng):
    x, y = (signal(rng, 64, lmax=lmax, dtype="float32") for _ in range(2))
    found = gaunt_tensor_product(x, y, lmax=lmax, implementation=name)
    wanted = exact(x.astype("float64"), y.astype("float64"), lmax)
    assert error_ratio(found, wanted) <= 3e-7


@pytest.mark.parametrize(
    ("name", "precision", "bound", "floor"),
    [
        ("xla", "tf32", 1e-3, 1e-4),
        ("xla", "bf16", 8e-3, 1e-3),
        ("xla", "3xtf32", 1e-6, 1e-9),
        ("antipodal", "3xtf32", 1e-6, 1e-9),
        ("separable", "tf32", 1e-3, 1e-4),
        ("clebsch_gordan", "bf16", 8e-3, 1e-3),
    ],
)
def test_reduced_precision(name, precision, bound, floor, rng):
    """Errors of values and gradients are within the bound, and are not those of float32."""
    x, y, c = (signal(rng, 64, lmax=3, dtype="float32") for _ in range(3))

    @jax.jit
    def run(x, y, c):
        product = functools.partial(
            gaunt_tensor_product, lmax=3, precision=precision, implementation=name
        )
        z, pull = jax.vjp(product, x, y)
        return z, *pull(c)

    x64, y64, c64 = (array.astype("float64") for array in (x, y, c))
    # the coefficients are symmetric: a gradient is a product of the other two
    wanted = exact(x64, y64, 3), exact(c64, y64, 3), exact(c64, x64, 3)
    for one, two in zip(run(x, y, c), wanted, strict=True):
        assert floor < error_ratio(one, two) <= bound


@pytest.mark.parametrize("inverts", [False, True])
@pytest.mark.parametrize("lmax", [1, 8])
def test_equivariance_of_values_and_gradients(lmax, inverts, rng):
    x, y, c = (signal(rng, 16, lmax=lmax, dtype="float32") for _ in range(3))
    matrix = rotation(lmax, inverts=inverts)

    def act(*arrays):
        return tuple((np.asarray(a, np.float64) @ matrix.T).astype("float32") for a in arrays)

    def run(x, y, c):
        z, pull = jax.vjp(lambda x, y: gaunt_tensor_product(x, y, lmax=lmax), x, y)
        return z, *pull(c)

    assert_equivariant(
        run,
        (x, y, c),
        act_on_inputs=act,
        act_on_output=lambda out: act(*out),
        bound=1e-6,
    )


def test_odd_sums_of_degrees_vanish(rng):
    """`1 x 1 -> 1` is no path."""
    x, y = signal(rng, 5, lmax=1), signal(rng, 5, lmax=1)
    x[:, 0] = y[:, 0] = 0
    with jax.enable_x64(True):
        z = gaunt_tensor_product(x, y, implementation="clebsch_gordan")
        assert np.array_equal(z[:, 1:4], np.zeros((5, 3)))
        z = gaunt_tensor_product(x, y, implementation="xla")
        np.testing.assert_allclose(z[:, 1:4], 0, atol=1e-15)


def test_normalisation_is_the_orthonormal_one(rng):
    """Beside e3nn's product of the same irreps: each path by its own factor, no sqrt(4 pi)."""
    x, y = (signal(rng, 4, lmax=2) for _ in range(2))
    irreps = e3nn.s2_irreps(2)
    one = [[item.ir] for item in irreps]
    with jax.enable_x64(True):
        z = gaunt_tensor_product(x, y, lmax=4)
        wanted = np.zeros((4, 25))
        left, right = (e3nn.IrrepsArray(irreps, jnp.asarray(v)) for v in (x, y))
        for a in range(3):
            for b in range(3):
                pair = left.filter(one[a]), right.filter(one[b])
                out = e3nn.tensor_product(*pair, irrep_normalization="component")
                for chunk, item in zip(out.chunks, out.irreps, strict=True):
                    degree = item.ir.l
                    scale = gaunt_factor(a, b, degree) / np.sqrt(2 * degree + 1)
                    wanted[:, degree**2 : (degree + 1) ** 2] += scale * np.asarray(chunk[:, 0])
    np.testing.assert_allclose(z, wanted, atol=1e-12)


def test_constant_signal_scales():
    """The signal 1 is sqrt(4 pi) on degree 0; times it, a signal stays what it is."""
    one = jnp.zeros(9).at[0].set((4 * jnp.pi) ** 0.5)
    x = jnp.arange(9.0)
    np.testing.assert_allclose(gaunt_tensor_product(x, one, lmax=2), x, atol=1e-5)


def test_weights_act_on_degrees(rng):
    x, y = signal(rng, 6, 4, lmax=2), signal(rng, 6, 1, lmax=1)
    weights = [rng.standard_normal(shape) for shape in ((4, 3), (6, 1, 2), (6, 4, 4))]
    spread = [np.repeat(w, 2 * np.arange(w.shape[-1]) + 1, axis=-1) for w in weights]
    with jax.enable_x64(True):
        found = gaunt_tensor_product(x, y, weights=tuple(weights))
        wanted = gaunt_tensor_product(x * spread[0], y * spread[1]) * spread[2]
        assert found.shape == (6, 4, 16)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        none = gaunt_tensor_product(x, y, weights=(None, None, None))
        np.testing.assert_array_equal(none, gaunt_tensor_product(x, y))


def test_weights_reach_every_even_path_as_a_rank_one_tensor(rng):
    """Against the general product with weights w1 w2 w3 times the factor of each path."""
    x, y = signal(rng, 5, lmax=2), signal(rng, 5, lmax=2)
    w1, w2, w3 = (rng.standard_normal(n) for n in (3, 3, 5))
    paths = tensor_product_paths(range(3), range(3), range(5))
    path_weights = np.array([w1[a] * w2[b] * w3[c] * gaunt_factor(a, b, c) for a, b, c in paths])
    with jax.enable_x64(True):
        wanted = clebsch_gordan_tensor_product(
            *map(jnp.asarray, (x, y)),
            weights=path_weights,
            normalization="frobenius",
            implementation="reference",
        )
        found = gaunt_tensor_product(x, y, weights=(w1, w2, w3))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert clebsch_gordan(1, 1, 1).any()  # odd sums are among the paths, with weight 0


def test_leading_axes_broadcast(rng):
    x, y = signal(rng, 5, 1, 3, lmax=1), signal(rng, 4, 1, lmax=1)
    with jax.enable_x64(True):
        z = gaunt_tensor_product(x, y)
        assert z.shape == (5, 4, 3, 9)
        np.testing.assert_allclose(
            z[2, 1, 0], gaunt_tensor_product(x[2, 0, 0], y[1, 0]), atol=1e-14
        )


@pytest.mark.parametrize("name", [*NAMES, "fourier", "reference", None])
def test_no_rows(name):
    z = gaunt_tensor_product(jnp.zeros((0, 4)), jnp.zeros((0, 9)), implementation=name)
    assert z.shape == (0, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype, rng):
    x, y = (jnp.asarray(signal(rng, 50, lmax=2), dtype) for _ in range(2))
    z = gaunt_tensor_product(x, y)
    wide = gaunt_tensor_product(x.astype("float32"), y.astype("float32"))
    assert z.dtype == dtype
    np.testing.assert_array_equal(z, wide.astype(dtype))


def test_vmap_equals_batch(rng):
    x, y = (signal(rng, 6, lmax=2, dtype="float32") for _ in range(2))
    for precision in (None, "tf32"):
        run = functools.partial(gaunt_tensor_product, precision=precision)
        each, batch = jax.vmap(run)(x, y), run(x, y)
        np.testing.assert_allclose(each, batch, rtol=1e-5, atol=1e-6)


def test_own_grid_gives_the_same(rng):
    x, y = signal(rng, 3, lmax=2), signal(rng, 3, lmax=2)
    grid = SphericalGrid.gauss_legendre(9)
    with jax.enable_x64(True):
        for name in ("xla", "antipodal", "separable"):
            found = gaunt_tensor_product(x, y, lmax=2, grid=grid, implementation=name)
            np.testing.assert_allclose(found, gaunt_tensor_product(x, y, lmax=2), atol=1e-13)


def test_irreps_arrays(rng):
    """Channels and parities."""
    x = e3nn.IrrepsArray("8x0e+8x1o+8x2e", jnp.asarray(rng.standard_normal((5, 72)), "float32"))
    y = e3nn.IrrepsArray("0o+1e", jnp.asarray(rng.standard_normal((5, 4)), "float32"))
    z = gaunt_tensor_product(x, y, lmax=2)
    assert str(z.irreps) == "8x0o+8x1e+8x2o"
    plain = gaunt_tensor_product(x.mul_to_axis().array, y.mul_to_axis().array, lmax=2)
    np.testing.assert_array_equal(z.mul_to_axis().array, plain)


def test_parities_of_arguments(rng):
    scalar = e3nn.IrrepsArray("4x0o", jnp.ones((2, 4)))
    axial = e3nn.IrrepsArray("4x0e+4x1e", jnp.ones((2, 16)))
    assert str(gaunt_tensor_product(scalar, axial).irreps) == "4x0o+4x1o"
    assert str(gaunt_tensor_product(scalar, scalar).irreps) == "4x0e"


@pytest.mark.parametrize(
    ("irreps", "size"),
    [
        ("0e+1o+1o", 7),
        ("8x0e+4x1o", 20),
        ("1o+0e", 4),
        ("0e+1o+2o", 9),
        ("0e+2e", 6),
        ("0e+1o+2e+3e", 16),
    ],
)
def test_other_irreps_are_refused_by_name(irreps, size):
    x = e3nn.IrrepsArray(irreps, jnp.ones(size))
    with pytest.raises(
        ValueError, match=r"y must hold degrees 0 to L .* got .*1o|y must hold .*2e"
    ):
        gaunt_tensor_product(e3nn.IrrepsArray("0e", jnp.ones(1)), x)


def test_bad_input_is_refused():
    x = jnp.ones((5, 9))
    polar, axial = (e3nn.IrrepsArray(irreps, jnp.ones(4)) for irreps in ("0e+1o", "0e+1e"))
    with pytest.raises(ValueError, match=r"y must have shape \(\*B, \(L \+ 1\)\^2\).*\(5, 8\)"):
        gaunt_tensor_product(x, jnp.ones((5, 8)))
    with pytest.raises(ValueError, match=r"x must have shape .* got \(\)"):
        gaunt_tensor_product(1.0, x)
    with pytest.raises(TypeError, match="x must be real floating point, got int32"):
        gaunt_tensor_product(jnp.ones(4, jnp.int32), x)
    with pytest.raises(TypeError, match="y must have the dtype of x, float32, got bfloat16"):
        gaunt_tensor_product(x, x.astype("bfloat16"))
    with pytest.raises(
        ValueError, match=r"leading axes must broadcast, got x \(5, 9\), y \(4, 9\)"
    ):
        gaunt_tensor_product(x, jnp.ones((4, 9)))
    with pytest.raises(
        ValueError, match="lmax must be at most 4, the degree of the product, got 5"
    ):
        gaunt_tensor_product(x, x, lmax=5)
    with pytest.raises(ValueError, match=r"weights\[2\] must have shape \(\.\.\., 5\).*\(3,\)"):
        gaunt_tensor_product(x, x, weights=(None, None, jnp.ones(3)))
    with pytest.raises(ValueError, match=r"weights must have three members.* got 2"):
        gaunt_tensor_product(x, x, weights=(None, None))
    with pytest.raises(
        ValueError, match="T = L1 \\+ L2 \\+ L3 = 8, got one of 28 points exact to 6"
    ):
        gaunt_tensor_product(x, x, grid=SphericalGrid.gauss_legendre(6))
    with pytest.raises(ValueError, match="grid must be one of 'gauss_legendre'"):
        gaunt_tensor_product(x, x, grid="healpix")
    with pytest.raises(ValueError, match="precision must be None, 'default'"):
        gaunt_tensor_product(x, x, precision="fp8")
    with jax.enable_x64(True), pytest.raises(ValueError, match="'tf32' is for float32 at most"):
        gaunt_tensor_product(np.ones(4), np.ones(4), precision="tf32")
    with pytest.raises(
        NotImplementedError, match="'separable' cannot serve: the grid is no product"
    ):
        gaunt_tensor_product(x, x, grid="design", implementation="separable")
    with pytest.raises(NotImplementedError, match="the grid is no product"):
        gaunt_tensor_product(x, x, grid="lebedev", implementation="separable")
    large = jnp.ones((1, 67**2))
    with pytest.raises(ValueError, match=r"grid of kind lebedev .* 131 at most, .* T = 132"):
        gaunt_tensor_product(large, large, lmax=0, grid="lebedev", implementation="xla")
    with pytest.raises(NotImplementedError, match=r"'fourier' cannot serve.*'tf32'"):
        gaunt_tensor_product(x, x, precision="tf32", implementation="fourier")
    with pytest.raises(TypeError, match="both be IrrepsArray, or both plain"):
        gaunt_tensor_product(polar, x)
    with pytest.raises(ValueError, match="one p_arg, got p_arg = -1 for x and 1 for y"):
        gaunt_tensor_product(polar, axial)


def test_no_tables_are_computed_at_run_time():
    """The traced program multiplies, adds and moves: no sines, roots or recursions."""
    x = jnp.ones((3, 81))
    program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(gaunt_tensor_product(x, x, lmax=8))))(x)
    names = set(re.findall(r" ([a-z_0-9]+)\[| ([a-z_0-9]+) ", str(program)))
    found = {name for pair in names for name in pair}
    assert found.isdisjoint({"sin", "cos", "atan2", "sqrt", "exp", "log", "pow", "scan", "while"})
    assert "dot_general" in found


@pytest.mark.parametrize("precision", [None, "3xtf32"])
def test_inside_shard_map(precision, rng):
    """Values and gradients of every shard, as on one device."""
    x, y = (jnp.asarray(signal(rng, 8, lmax=2), jnp.float32) for _ in range(2))

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(gaunt_tensor_product(x, y, lmax=2, precision=precision) ** 2)

    gradient = jax.grad(loss, (0, 1))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P("data", None), P("data", None))
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs))
    for one, two in zip(sharded(x, y), gradient(x, y), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_compiles_in_two_seconds():
    x = jax.ShapeDtypeStruct((1024, 81), jnp.float32)

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(gaunt_tensor_product(x, y, lmax=8) ** 2)

    start = time.process_time()  # of a machine that may be busy
    jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, x).compile()
    assert time.process_time() - start < 2


def test_nothing_but_the_arguments_is_kept(capsys):
    x = jnp.ones((10, 25))
    print_saved_residuals(lambda x, y: gaunt_tensor_product(x, y, lmax=4), x, x)
    lines = capsys.readouterr().out.strip().splitlines()
    kept = [line for line in lines if not line.endswith("from a constant")]
    assert len(kept) == 2
    assert all("from the argument" in line for line in kept), kept


def test_the_choice_can_be_asked():

    def choice(lmax: int, platform: str, precision: Any = jax.lax.Precision.HIGHEST) -> str:
        x = jax.ShapeDtypeStruct((1000, (lmax + 1) ** 2), "float32")
        options = {"grid": None, "precision": precision, "platform": platform}
        return dispatcher.choose(x, x, lmax=lmax, **options).name

    assert [choice(lmax, "cpu") for lmax in (0, 1, 2, 3, 11, 12)] == [
        *("sparse", "sparse", "sparse", "xla", "xla", "antipodal"),
    ]
    assert choice(1, "cpu", "tf32") == choice(1, "gpu", "tf32") == "sparse"
    assert [choice(lmax, "gpu") for lmax in (1, 4, 5, 11, 12)] == [
        *("sparse", "sparse", "xla", "xla", "antipodal"),
    ]
    assert choice(12, "gpu", "tf32") == choice(12, "gpu", jax.lax.Precision.DEFAULT) == "xla"


def test_few_rows_take_terms_on_a_gpu():
    """In every word, up to a bound on the terms of all rows; not under a bare vmap."""

    def choice(lead: tuple[int, ...], lmax: int, precision: Any = "tf32") -> str:
        x = jax.ShapeDtypeStruct((*lead, (lmax + 1) ** 2), "float32")
        options = {"grid": None, "precision": precision, "platform": "gpu"}
        return dispatcher.choose(x, x, lmax=2 * lmax, **options).name

    for word in ("tf32", "3xtf32", "bf16", jax.lax.Precision.HIGHEST):
        assert [choice((1,), lmax, word) for lmax in (2, 4, 9)] == ["sparse"] * 3
        assert [choice((1,), lmax, word) for lmax in (1, 3, 7)] == ["clebsch_gordan"] * 3
        assert choice((2,), 3, word) == "sparse"
    assert [choice((), lmax) for lmax in (1, 2, 9)] == ["sparse", "xla", "xla"]
    # 5,605 terms at L = 5, 12,322 at L = 6, 24,366 at L = 7; T = 15, 24, 28
    assert [choice((129,), lmax) for lmax in (6, 7)] == ["sparse", "xla"]
    assert [choice((rows,), 5, "3xtf32") for rows in (285, 286)] == ["sparse", "xla"]
    assert [choice((rows,), 7) for rows in (65, 66)] == ["sparse", "xla"]


def test_one_row_of_a_table_is_in_float32(rng):
    """Whatever the word; more rows are in it."""
    x, y = (jnp.asarray(signal(rng, 2, lmax=3), jnp.float32) for _ in range(2))

    def product(rows: int, word: str) -> jax.Array:
        run = functools.partial(gaunt_tensor_product, implementation="clebsch_gordan")
        return run(x[:rows], y[:rows], precision=word)

    for word in ("tf32", "3xtf32", "bf16"):
        np.testing.assert_array_equal(product(1, word), product(1, "highest"))
        assert bool(jnp.any(product(2, word) != product(2, "highest")))


@pytest.mark.parametrize("word", ["tf32", "3xtf32", "bf16"])
def test_coefficients_one_by_one_are_exact_in_every_word(word, rng):
    x, y = (jnp.asarray(signal(rng, 7, lmax=2), jnp.float32) for _ in range(2))
    found = gaunt_tensor_product(x, y, precision=word, implementation="sparse")
    wanted = gaunt_tensor_product(x, y, precision="highest", implementation="sparse")
    np.testing.assert_array_equal(found, wanted)


def test_tables_are_rounded_on_the_host_as_signals_are(rng):
    """Ties, subnormal and large numbers; the second part has what the first lacks."""
    bits = rng.integers(0, 2**32, 4096, dtype=np.uint32) & np.uint32(0xFEFFFFFF)
    ties = (bits & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    table = np.concatenate([bits, ties, np.zeros(1, np.uint32)]).view(np.float32)
    table = table[np.isfinite(table)]
    high, low = products._parts(table, "3xtf32")
    np.testing.assert_array_equal(high, products.round_to_tf32(jnp.asarray(table)))
    np.testing.assert_array_equal(products._parts(table, "tf32")[0], high)
    np.testing.assert_array_equal(low, products._round_table(table - high))
    assert not np.any(high.view(np.uint32) & 0x1FFF)

"""The kernel for TPUs in the interpreter of TPUs, and through the compilers of five generations."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType

from structlayers._core.pallas import interpret_tpu_kernels, tpu_races
from structlayers.equivariant import gaunt_tensor_product, many_body_product
from structlayers.equivariant.ops.gaunt import dispatcher
from structlayers.equivariant.ops.many_body import dispatcher as many_body_dispatcher
from structlayers.equivariant.pallas_tpu.arithmetic import PAIRS, stack_table, stack_values
from structlayers.equivariant.pallas_tpu.memory import plan, split_rows
from structlayers.equivariant.pallas_tpu.tables import evaluating, padded_points, projecting
from structlayers.equivariant.pointwise import powers, product_of
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
    error_ratio,
)
from structlayers.testing.tpu import TpuCompiler, skip_without_compiler

pytestmark = pytest.mark.pallas

HIGHEST = jax.lax.Precision.HIGHEST
# Two parts of 8 bits each have 16 of 24 bits: a few 2^-18 from each operand.
BOUNDS = {"highest": 3e-7, "high": 2e-5, "bf16": 8e-3}


@pytest.fixture(autouse=True)
def _interpreted(request):
    if {"compiler", "not_interpreted"} & set(request.fixturenames):
        yield
        return
    with interpret_tpu_kernels():
        yield
    assert not tpu_races()


@pytest.fixture
def not_interpreted():
    """For a test of what happens without the interpreter."""


def product(implementation, **options):
    return functools.partial(gaunt_tensor_product, implementation=implementation, **options)


def power(implementation, **options):
    return functools.partial(many_body_product, implementation=implementation, **options)


def signals(rng, lead, *degrees, dtype="float32"):
    shapes = [(*lead, (degree + 1) ** 2) for degree in degrees]
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


# rows, degrees of x and y, L3
CASES = {
    "one row": ((), (2, 2, 3)),
    "constants": ((3,), (0, 0, 0)),
    "few rows, constants": ((5,), (0, 2, 2)),
    "odd rows, other degrees": ((133,), (3, 1, 2)),
    "all of the product": ((2, 7), (2, 3, 5)),
    "several steps": ((4500,), (1, 1, 1)),
    "channels, part of a block": ((11, 128), (1, 2, 2)),
    "tiles of channels": ((3, 3, 256), (2, 2, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, rng):
    lead, (l1, l2, l3) = CASES[case]
    # every coefficient in float64, or path by path: the same, and the former compiles faster
    oracle = "reference" if case == "constants" else "clebsch_gordan"
    run, wanted = (product(name, lmax=l3) for name in ("pallas_tpu", oracle))
    assert_gradients_match(run, wanted, signals(rng, lead, l1, l2), BOUNDS["highest"])


@pytest.mark.parametrize("lmax", [4, 6, 8])
def test_high_degrees(lmax, rng):
    run, wanted = (product(name, lmax=lmax) for name in ("pallas_tpu", "clebsch_gordan"))
    arrays = signals(rng, (5,), lmax, lmax)
    if lmax == 8:  # the table of all coefficients is for 6 at most
        wanted = product("antipodal", lmax=lmax)
    assert_gradients_match(run, wanted, arrays, BOUNDS["highest"])


@pytest.mark.parametrize(
    ("lead", "lmax", "order", "kept"), [((41,), 3, 3, 2), ((9, 128), 1, 2, 2), ((2,), 2, 4, 0)]
)
def test_powers_and_gradients(lead, lmax, order, kept, rng):
    # in float64 on a grid of XLA: test_many_body.py holds that to 1e-12 of the definition
    run, wanted = (power(name, order=order, lmax=kept) for name in ("pallas_tpu", "xla"))
    assert_gradients_match(run, wanted, signals(rng, lead, lmax), BOUNDS["highest"])


@pytest.mark.parametrize("precision", ["high", "bf16"])
def test_fewer_products_cost_the_digits_that_are_stated(precision, rng):
    arrays = signals(rng, (133,), 2, 3)
    run, wanted = (
        product("pallas_tpu", lmax=2, precision=precision),
        product("clebsch_gordan", lmax=2),
    )
    bound = BOUNDS[precision]
    assert_gradients_match(run, wanted, arrays, bound)
    with jax.enable_x64(True):
        exact = wanted(*(x.astype(np.float64) for x in arrays))
    # not more exact than that either: the word acts
    assert error_ratio(run(*arrays), exact) >= bound / 10


@pytest.mark.parametrize(
    ("lead", "precision"),
    [
        ((45,), "bf16"),
        ((11, 128), "bf16"),
        pytest.param((45,), "highest", marks=pytest.mark.slow),
        pytest.param((11, 128), "highest", marks=pytest.mark.slow),
        pytest.param((16, 128), "bf16", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_signals(lead, precision, rng):
    arrays = signals(rng, lead, 2, 2, dtype=ml_dtypes.bfloat16)
    run, wanted = (
        product("pallas_tpu", lmax=3, precision=precision),
        product("clebsch_gordan", lmax=3),
    )
    assert run(*arrays).dtype == jnp.bfloat16
    assert_gradients_match(run, wanted, arrays, BOUNDS["bf16"])


def test_bfloat16_signals_stay_in_bfloat16(rng):
    def dtypes(precision):
        x, y = signals(rng, (45,), 2, 2, dtype=ml_dtypes.bfloat16)
        jaxpr = jax.make_jaxpr(product("pallas_tpu", precision=precision))(x, y)
        calls = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "pallas_call"]
        assert len(calls) == 1
        return {v.aval.dtype.name for v in calls[0].outvars}

    assert dtypes("bf16") == {"bfloat16"}
    assert dtypes("highest") == {"float32"}


def equations(jaxpr):
    """All equations, those of inner functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def test_rows_do_not_see_each_other(rng):
    x, y = signals(rng, (45,), 3, 3)
    run = jax.jit(product("pallas_tpu", lmax=3))
    clean = np.asarray(run(x, y))
    x[17], y[44, 0] = np.nan, np.inf
    found = np.asarray(run(x, y))
    assert not np.isfinite(found[[17, 44]]).any()
    others = np.delete(np.arange(45), [17, 44])
    np.testing.assert_array_equal(found[others], clean[others])


def test_large_and_small_numbers(rng):
    x, y = signals(rng, (20,), 2, 2)
    scales = np.float32(10.0) ** rng.integers(-15, 15, (20, 1))
    run, wanted = product("pallas_tpu"), product("clebsch_gordan")
    for one, other in ((x * scales, y), (x * scales, y / scales)):
        with jax.enable_x64(True):
            exact = np.asarray(wanted(one.astype(np.float64), other.astype(np.float64)))
        for found, row in zip(np.asarray(run(one, other)), exact, strict=True):
            assert error_ratio(found, row) <= 2 * BOUNDS["highest"]


def test_residuals_are_the_arguments(rng):
    x, y = map(jnp.asarray, signals(rng, (20,), 2, 3))
    _, pull = jax.vjp(product("pallas_tpu"), x, y)
    assert sorted(a.size for a in jax.tree.leaves(pull) if a.size > 1) == [x.size, y.size]


def test_derivatives_to_third_order(rng):
    """In the plain interpreter: JAX does not differentiate callbacks twice."""
    x, y, weights = (jnp.asarray(a) for a in signals(rng, (3,), 1, 1, 2))

    def third(implementation):
        def loss(x, y):
            return jnp.sum(jnp.sin(product(implementation, lmax=2)(x, y)) * weights)

        def slope(x, y):
            return sum(jnp.sum(d**2) for d in jax.grad(loss, (0, 1))(x, y))

        def bend(x, y):
            return sum(jnp.sum(d**2) for d in jax.grad(slope, (0, 1))(x, y))

        return jax.jit(jax.grad(bend, (0, 1)))(x, y)

    with interpret_tpu_kernels(plain=True):
        found = third("pallas_tpu")
    assert_close("third", found, third("clebsch_gordan"), 3e-6)


def test_vmap_agrees(rng):
    x, y = signals(rng, (4, 2, 3), 2, 1)
    run = product("pallas_tpu", lmax=3)
    with interpret_tpu_kernels(plain=True):
        together = jax.jit(run)(x, y)
        assert_close("both", jax.jit(jax.vmap(run))(x, y), together, 1e-7)
        shared = jax.jit(jax.vmap(run, (0, None)))(x, y[0])
        wanted = jax.jit(run)(x, jnp.broadcast_to(y[:1], y.shape))
    assert_close("shared", shared, wanted, 1e-7)


def test_sharded_batches(rng):
    arrays = signals(rng, (8, 5), 2, 2)
    with interpret_tpu_kernels(plain=True):
        run = product("pallas_tpu", lmax=2)
        assert_sharded_equals_single(run, arrays, (0, 0), bound=1e-6)


@pytest.mark.parametrize("parts", PAIRS)
def test_parts_add_up(parts, rng):
    values = rng.standard_normal((16, 5)).astype(np.float32)
    table = rng.standard_normal((8, 16))
    stacked = np.asarray(jax.jit(stack_values, static_argnums=1)(values, parts), np.float64)
    found = stack_table(table, parts).astype(np.float64) @ stacked
    error = error_ratio(found, table @ values.astype(np.float64))
    assert error <= (2.0**-8, 2.0**-15, 2.0**-23)[parts - 1]


@pytest.mark.parametrize("lmax", range(9))
def test_tables_give_a_signal_back(lmax):
    """Evaluated at points and antipodes, then projected: the identity."""
    degree = 2 * lmax
    values = evaluating(lmax, degree, 1).astype(np.float64)[:, : (lmax + 1) ** 2]
    here, there = np.split(values, 2)
    assert len(here) == padded_points(degree)
    parities = np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1) % 2
    for parity, table in enumerate(projecting(lmax, degree, 1)):
        sign = 1 - 2 * parity
        wanted = np.eye((lmax + 1) ** 2)[parities == parity]
        found = table.astype(np.float64)[: len(wanted)] @ (here + sign * there)
        assert np.abs(found - wanted).max() <= 0.02  # bfloat16 tables


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def choose(shape=(5, 9), implementation="pallas_tpu", platform="tpu", **changes):
    dtype = changes.pop("dtype", "float32")
    options = {"lmax": 2, "precision": HIGHEST, "grid": "gauss_legendre"} | changes
    x = struct(*shape, dtype=dtype)
    return dispatcher.choose(x, x, implementation=implementation, platform=platform, **options)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float16"}, "not float16"),
        ({"precision": "tf32"}, "'high', 'default' and 'bf16', not 'tf32'"),
        ({"precision": "3xtf32"}, "not '3xtf32'"),
        ({"shape": (0, 9)}, "is empty"),
        ({"shape": (5, 26**2), "lmax": 25}, "MiB of VMEM"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(changes, reason):
    with pytest.raises(NotImplementedError, match=reason):
        choose(**changes)


def test_powers_are_refused_with_the_reason():
    choose_power = functools.partial(
        many_body_dispatcher.choose, implementation="pallas_tpu", platform="tpu", lmax=2, grid=None
    )
    with pytest.raises(NotImplementedError, match="not 'tf32'"):
        choose_power(struct(5, 9), order=3, precision="tf32")
    with pytest.raises(NotImplementedError, match="MiB of VMEM"):
        choose_power(struct(5, 169), order=6, precision=HIGHEST)


def test_other_platforms_are_refused(not_interpreted):
    with pytest.raises(NotImplementedError, match="this is gpu"):
        choose(platform="gpu")
    with pytest.raises(NotImplementedError, match="this is cpu"):
        gaunt_tensor_product(jnp.ones((3, 9)), jnp.ones((3, 9)), implementation="pallas_tpu")


def test_the_choice_on_tpu(monkeypatch):
    assert choose(implementation=None).name == "xla"  # among devices of unknown sharding
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        assert choose(implementation=None).name == "pallas_tpu"
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "compiled estimates" in choose(implementation=None).why
    assert choose(implementation=None, precision="tf32").name == "xla"
    power = many_body_dispatcher.choose(
        struct(5, 9), platform="tpu", order=3, lmax=2, precision=HIGHEST, grid=None
    )
    assert power.name == "pallas_tpu"


def test_steps_fit():
    assert split_rows(()) == (1,)
    assert split_rows((5, 128)) == (640,)
    assert split_rows((3, 5, 256)) == (15, 256)
    for vmem in (16 << 20, 128 << 20):
        for itemsize in (2, 4):
            for lmax in (1, 2, 4, 8):
                options = ((lmax, lmax), (product_of((0, 1), lmax),), itemsize, 3, vmem)
                rows = plan((10_007,), *options)
                assert rows.block[0] * rows.steps[0] >= 10_007
                assert rows.block[0] % 128 == 0
                channels = plan((135, 256), *options)
                assert channels.block[0] % (32 // itemsize) == 0
                assert channels.block[0] * channels.steps[0] >= 135
                assert channels.steps[1] == 2
    assert plan((5,), (2,), powers(3, 2), 4, 3, 16 << 20).block == (128,)


def both(*arrays, precision, lmax):
    """Forward and backward, for the compiler."""
    run = product("pallas_tpu", precision=precision, lmax=lmax)
    out, pull = jax.vjp(run, *arrays)
    return pull(out)


def both_of_powers(x, precision):
    """The same for powers."""
    run = power("pallas_tpu", precision=precision, order=3, lmax=1)
    out, pull = jax.vjp(run, x)
    return pull(out)


@pytest.fixture(scope="module")
def compiler():
    skip_without_compiler()
    with TpuCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize(
    ("lead", "precision", "dtype"),
    [
        ((133,), "highest", "float32"),
        ((11, 256), "high", "float32"),
        ((45, 128), "bf16", "bfloat16"),
    ],
)
def test_every_generation_compiles_both_directions(lead, precision, dtype, compiler):
    x, y = struct(*lead, 25, dtype=dtype), struct(*lead, 9, dtype=dtype)
    rows = compiler.compile(f"{__file__}:both", x, y, precision=precision, lmax=3)
    rows += compiler.compile(f"{__file__}:both_of_powers", y, precision=precision)
    for row in rows:
        assert row.compiled, f"{row.target}: {row.error}"
        assert len(row.kernels) == 2
        assert row.mxu_share is not None
        assert row.mxu_share > 0

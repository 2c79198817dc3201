"""butterfly_multiply: values, gradients, transformations, dtypes, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import (
    ButterflyOperator,
    bit_reversal_permutation,
    butterfly_multiply,
    initializers,
    twiddle_shape,
)
from structlayers.butterfly.ops.multiply import dispatcher
from structlayers.butterfly.xla import apply_block, group_sizes
from structlayers.testing import assert_close, assert_gradients_match, error_ratio
from tests.butterfly.dense_oracle import dense_oracle, random_array, random_twiddle

IMPLEMENTATIONS = ("xla", "dense", "reference", None)
# up to 4 rows of "xla" go factor by factor on a CPU, more in merged groups
WITH_ROWS = [("xla", 3), ("xla", 5), ("dense", 3), ("reference", 3)]


@functools.partial(jax.jit, static_argnames=("implementation", "increasing_stride"))
def every_form(x, twiddles, implementation, increasing_stride):
    """All products of one test case in one compilation."""
    return {
        key: butterfly_multiply(
            x[key[2]],
            twiddle,
            increasing_stride=increasing_stride,
            alternating=key[3],
            implementation=implementation,
        )
        for key, twiddle in twiddles.items()
    }


@pytest.mark.parametrize("increasing_stride", [True, False])
@pytest.mark.parametrize(("implementation", "rows"), WITH_ROWS)
@pytest.mark.parametrize("n", [1, 2, 32])
def test_products_equal_the_definition(n, implementation, rows, increasing_stride, rng):
    dtypes = ("float32", "complex64")
    twiddles = {
        (tied, blocks, dtype, alternating): random_twiddle(
            rng, twiddle_shape(n, tied=tied, blocks=blocks), dtype
        )
        for tied in (True, False)
        for blocks, alternating in ((1, True), (2, True), (2, False))
        for dtype in dtypes
    }
    x = {dtype: random_array(rng, (rows, n), dtype) for dtype in dtypes}
    products = every_form(x, twiddles, implementation, increasing_stride)
    for key, out in products.items():
        matrix = dense_oracle(
            twiddles[key], increasing_stride=increasing_stride, alternating=key[3]
        )
        assert out.dtype == key[2]
        assert_close(f"product {key}", out, x[key[2]] @ matrix.T, 2e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("batch", [(), (2, 1), (40,)])
def test_rectangular_stacks_and_permutations(batch, implementation, rng):
    n, blocks, stacks = 16, 3, 2
    one = rng.permutation(n)
    each = np.stack([bit_reversal_permutation(n), rng.permutation(n), np.arange(n)])
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=stacks, blocks=blocks))
    x = random_array(rng, (*batch, 11))
    for permutation, alternating in ((None, True), (one, False), (each, True)):
        options = {
            "alternating": alternating,
            "increasing_stride": False,
            "permutation": permutation,
            "out_features": 27,
        }
        multiply = functools.partial(butterfly_multiply, implementation=implementation, **options)
        out = jax.jit(multiply)(x, twiddle)
        matrix = dense_oracle(twiddle, **options)[:, :11]
        assert out.shape == (*batch, 27)
        assert_close("product", out, x @ matrix.T, 2e-6)


@pytest.mark.parametrize(("implementation", "rows"), WITH_ROWS)
@pytest.mark.parametrize(
    ("dtypes", "tied"), [(("float32", "float32"), True), (("float32", "complex64"), False)]
)
def test_gradients_against_the_float64_reference(dtypes, tied, implementation, rows, rng):
    n = 32
    x = random_array(rng, (rows, 1, 27), dtypes[0])
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=2, blocks=2, tied=tied), dtypes[1])
    options = {"permutation": bit_reversal_permutation(n), "out_features": 60}
    assert_gradients_match(
        jax.jit(functools.partial(butterfly_multiply, implementation=implementation, **options)),
        jax.jit(functools.partial(butterfly_multiply, implementation="reference", **options)),
        (x, twiddle),
        2e-6,
    )


@pytest.mark.parametrize(
    ("n", "batch", "dtype", "tied"),
    [
        (256, 64, "float32", False),
        (2048, 3, "complex64", True),
        (16384, 5, "float32", False),
        (16384, 1, "complex64", False),
    ],
)
def test_large_sizes_stay_within_two_millionths(n, batch, dtype, tied, rng):
    twiddle = random_twiddle(rng, twiddle_shape(n, tied=tied), dtype)
    x = random_array(rng, (batch, n), dtype)
    assert_gradients_match(
        jax.jit(butterfly_multiply),
        jax.jit(functools.partial(butterfly_multiply, implementation="reference")),
        (x, twiddle),
        2e-6,
    )


@pytest.mark.parametrize(
    ("dtype", "twiddle_dtype", "implementation", "rows"),
    [
        ("bfloat16", "float32", "xla", 16),
        ("bfloat16", "float32", "xla", 4),
        ("bfloat16", "bfloat16", "xla", 16),
        ("bfloat16", "float32", "dense", 16),
        ("float16", "float32", "xla", 16),
        ("bfloat16", "float32", "reference", 16),
    ],
)
def test_half_precision_within_a_hundredth(dtype, twiddle_dtype, implementation, rows, rng):
    n = 256
    x = jnp.asarray(random_array(rng, (rows, n)), dtype)
    twiddle = jnp.asarray(random_twiddle(rng, twiddle_shape(n)), twiddle_dtype)
    multiply = jax.jit(functools.partial(butterfly_multiply, implementation=implementation))
    assert jax.eval_shape(multiply, x, twiddle).dtype == dtype
    assert_gradients_match(
        multiply,
        jax.jit(functools.partial(butterfly_multiply, implementation="reference")),
        (x, twiddle),
        1e-2,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_sums_are_wide(dtype, rng):
    """Long sums, over features forward and over the batch backward, err by one rounding."""
    x = jnp.asarray(rng.uniform(0.5, 1.5, (512, 16)), dtype)
    weights = jnp.asarray(rng.uniform(0.5, 1.5, (1, 1, 1, 16, 16)), dtype)
    out, pullback = jax.vjp(lambda w: apply_block(x[:, None], w, None), weights)
    (gradient,) = pullback(out)
    wide_x, wide = np.asarray(x, np.float64), np.asarray(weights, np.float64)[0, 0, 0]
    expected = wide_x @ wide.T
    rounding = float(jnp.finfo(dtype).eps)
    assert_close("out", out[:, 0], expected, rounding)
    rounded_out = np.asarray(out, np.float64)[:, 0]
    assert_close("gradient", gradient[0, 0, 0], rounded_out.T @ wide_x, rounding)


def test_float64_under_x64(rng):
    n = 64
    twiddle = rng.standard_normal(twiddle_shape(n)) / np.sqrt(2)
    x = rng.standard_normal((3, n))
    with jax.enable_x64(True):
        for implementation in IMPLEMENTATIONS:
            multiply = functools.partial(butterfly_multiply, implementation=implementation)
            out = jax.jit(multiply)(x, twiddle)
            assert out.dtype == np.float64
            assert_close("product", np.asarray(out), x @ dense_oracle(twiddle).T, 1e-14)


@pytest.mark.parametrize(
    ("x", "twiddle", "result"),
    [
        ("float32", "complex64", "complex64"),
        ("complex64", "float32", "complex64"),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "float32", "bfloat16"),
        ("float16", "float16", "float16"),
        ("bfloat16", "complex64", "complex64"),
    ],
)
def test_promotion_is_explicit(x, twiddle, result, rng):
    x = jnp.asarray(random_array(rng, (2, 64)), x)
    twiddle = jnp.asarray(random_twiddle(rng, twiddle_shape(64)), twiddle)
    for implementation in IMPLEMENTATIONS:
        multiply = functools.partial(butterfly_multiply, implementation=implementation)
        assert jax.eval_shape(multiply, x, twiddle).dtype == result


@pytest.mark.parametrize("shape", [(0, 64), (3, 0, 50), (64,), (1,)])
def test_empty_batches_vectors_and_one_feature(shape, rng):
    twiddle = random_twiddle(rng, twiddle_shape(64))
    x = random_array(rng, shape)
    for implementation in IMPLEMENTATIONS:
        multiply = functools.partial(butterfly_multiply, implementation=implementation)
        out = jax.jit(multiply)(x, twiddle)
        assert out.shape == (*shape[:-1], 64)
        expected = x @ dense_oracle(twiddle)[:, : shape[-1]].T
        assert error_ratio(out, expected) <= 2e-6


def test_extreme_values_stay_finite_and_exact():
    twiddle = initializers.identity(jax.random.key(0), twiddle_shape(64))
    x = np.array([3e38, -3e38, 1e-30, 0.0] * 16, np.float32)
    np.testing.assert_array_equal(butterfly_multiply(x, twiddle), x)


@pytest.mark.parametrize(
    ("implementation", "batch"), [("xla", ()), ("xla", (5,)), ("dense", ()), ("reference", ())]
)
def test_transformations_agree(implementation, batch, rng):
    n = 16
    permutation = rng.permutation(n)
    multiply = jax.jit(
        functools.partial(
            butterfly_multiply, implementation=implementation, permutation=permutation
        )
    )
    x = jnp.asarray(random_array(rng, (4, *batch, n)))
    twiddles = jnp.asarray(random_twiddle(rng, (4, *twiddle_shape(n, blocks=2))))
    rows = jnp.stack([multiply(x[i], twiddles[i]) for i in range(4)])
    assert_close("vmap", jax.vmap(multiply)(x, twiddles), rows, 1e-6)
    eager = butterfly_multiply(
        x, twiddles[0], implementation=implementation, permutation=permutation
    )
    assert_close("jit", multiply(x, twiddles[0]), eager, 1e-6)

    def step(carry, twiddle):
        carry = jax.checkpoint(multiply)(carry, twiddle)
        return carry, carry

    last, _ = jax.lax.scan(step, x[0], twiddles)
    expected = x[0]
    for twiddle in twiddles:
        expected = multiply(expected, twiddle)
    assert_close("scan of remat", last, expected, 2e-6)


@pytest.mark.parametrize(("implementation", "rows"), WITH_ROWS)
def test_jvp_vjp_and_second_derivatives(implementation, rows, rng):
    n = 8
    multiply = jax.jit(functools.partial(butterfly_multiply, implementation=implementation))
    x, dx, ct = (jnp.asarray(random_array(rng, (rows, n))) for _ in range(3))
    twiddle, dtwiddle = (
        jnp.asarray(random_twiddle(rng, twiddle_shape(n, blocks=2))) for _ in range(2)
    )

    @jax.jit
    def products(x, twiddle):
        out, tangent = jax.jvp(multiply, (x, twiddle), (dx, dtwiddle))
        pulled_back = jax.vjp(multiply, x, twiddle)[1](ct)
        small = 1e-3
        ahead = multiply(x + small * dx, twiddle + small * dtwiddle)
        behind = multiply(x - small * dx, twiddle - small * dtwiddle)
        return out, tangent, pulled_back, (ahead - behind) / (2 * small)

    out, tangent, pulled_back, difference = products(x, twiddle)
    assert out.shape == (rows, n)
    assert_close("jvp against differences", tangent, difference, 2e-3)
    # <ct, J v> = <J^T ct, v>
    expected = np.vdot(pulled_back[0], dx) + np.vdot(pulled_back[1], dtwiddle)
    np.testing.assert_allclose(np.vdot(ct, tangent), expected, rtol=2e-5)

    def gradient_norm(twiddle, x, implementation):
        def loss(twiddle):
            return jnp.sum(butterfly_multiply(x, twiddle, implementation=implementation) ** 2)

        return jnp.sum(jax.grad(loss)(twiddle) ** 2)

    second = jax.jit(jax.grad(gradient_norm), static_argnums=2)
    with jax.enable_x64(True):
        wide = second(np.asarray(twiddle, np.float64), np.asarray(x, np.float64), "reference")
        wide = np.asarray(wide)
    assert_close("grad of grad", second(twiddle, x, implementation), wide, 5e-6)


def test_traced_permutation_equals_the_known_one(rng):
    n = 64
    twiddle, x = random_twiddle(rng, twiddle_shape(n)), random_array(rng, (2, n))
    permutation = bit_reversal_permutation(n)
    known = jax.jit(lambda x: butterfly_multiply(x, twiddle, permutation=permutation))(x)
    traced = jax.jit(lambda p: butterfly_multiply(x, twiddle, permutation=p))(permutation)
    assert_close("traced permutation", traced, known, 1e-6)
    closed_over = jnp.asarray(permutation)
    again = jax.jit(lambda x: butterfly_multiply(x, twiddle, permutation=closed_over))(x)
    np.testing.assert_array_equal(again, known)


def test_the_choice_is_explained():
    def choose(n, rows=8, **options):
        x = jax.ShapeDtypeStruct((rows, n), "float32")
        twiddle = jax.ShapeDtypeStruct(twiddle_shape(n), "float32")
        return dispatcher.choose(x, twiddle, None, platform="cpu", **options)

    assert choose(8).name == "dense"
    few = choose(8, rows=4)
    assert (few.name, few.why) == ("xla", "4 rows of N = 8 do not pay for merging")
    assert choose(2048).name == "xla"
    assert "break-even" in choose(8).why
    assert choose(8, implementation="reference").name == "reference"
    with pytest.raises(ValueError, match="unknown implementation 'fast'"):
        choose(8, implementation="fast")


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "unknown"])
def test_groups_are_few_and_balanced(platform):
    for levels in range(15):
        groups = group_sizes(levels, platform)
        assert sum(groups) == levels
        assert not groups or max(groups) - min(groups) <= 1
        assert len(groups) <= 4


@pytest.mark.parametrize(
    ("rows", "tied", "products"), [(5, False, 3), (4, False, 0), (4, True, 3), (0, False, 0)]
)
def test_the_xla_path_has_one_product_per_group(rows, tied, products, rng):
    twiddle = random_twiddle(rng, twiddle_shape(1024, tied=tied))
    x = random_array(rng, (rows, 1024))
    assert len(group_sizes(10, "cpu")) == 3
    jaxpr = jax.make_jaxpr(functools.partial(butterfly_multiply, implementation="xla"))(x, twiddle)
    assert str(jaxpr).count("dot_general") == products


BAD = {
    "x too wide": (lambda x, t: butterfly_multiply(np.zeros((2, 9), np.float32), t), "x must have"),
    "x scalar": (lambda x, t: butterfly_multiply(np.float32(1.0), t), "x must have"),
    "x without features": (lambda x, t: butterfly_multiply(x[:, :0], t), "x must have"),
    "twiddle rank": (lambda x, t: butterfly_multiply(x, t[0]), "twiddle must have shape"),
    "twiddle blocks": (lambda x, t: butterfly_multiply(x, t[..., :1]), "twiddle must have shape"),
    "twiddle pairs": (lambda x, t: butterfly_multiply(x, t[:, :, :2]), "power of two"),
    "no stack": (lambda x, t: butterfly_multiply(x, t[:0]), "twiddle must have shape"),
    "tied size": (lambda x, t: butterfly_multiply(x, t[:, :, :2, 0]), "power of two"),
    "out_features 0": (lambda x, t: butterfly_multiply(x, t, out_features=0), "out_features"),
    "out_features 9": (lambda x, t: butterfly_multiply(x, t, out_features=9), "at most"),
    "permutation length": (
        lambda x, t: butterfly_multiply(x, t, permutation=np.arange(4)),
        "permutation must have shape",
    ),
    "permutation repeats": (
        lambda x, t: butterfly_multiply(x, t, permutation=np.zeros(8, np.int32)),
        "each of 0 .. 7 once",
    ),
    "jax permutation repeats": (
        lambda x, t: butterfly_multiply(x, t, permutation=jnp.zeros(8, jnp.int32)),
        "each of 0 .. 7 once",
    ),
    "precision": (lambda x, t: butterfly_multiply(x, t, precision="exact"), "precision"),
    "implementation": (lambda x, t: butterfly_multiply(x, t, implementation="fast"), "unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case, rng):
    call, message = BAD[case]
    x, twiddle = random_array(rng, (2, 8)), random_twiddle(rng, twiddle_shape(8))
    with pytest.raises(ValueError, match=message):
        call(x, twiddle)


def test_bad_dtypes_are_refused(rng):
    x, twiddle = random_array(rng, (2, 8)), random_twiddle(rng, twiddle_shape(8))
    with pytest.raises(TypeError, match="x must be floating point or complex, got int32"):
        butterfly_multiply(np.ones((2, 8), np.int32), twiddle)
    with pytest.raises(TypeError, match="twiddle must be floating point or complex, got int32"):
        butterfly_multiply(x, np.ones(twiddle.shape, np.int32))
    with pytest.raises(TypeError, match="permutation must hold integers"):
        butterfly_multiply(x, twiddle, permutation=np.arange(8.0))


@pytest.mark.parametrize("real_part", [False, True])
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_operator_equals_its_matrix(implementation, real_part, rng):
    n, stacks = 8, 2
    twiddle = random_twiddle(rng, twiddle_shape(n, stacks=stacks, blocks=2), "complex64")
    orders = np.stack([rng.permutation(n), rng.permutation(n)])
    last = rng.permutation(n)
    operator = ButterflyOperator(
        jnp.asarray(twiddle),
        jnp.asarray(orders),
        jnp.asarray(last),
        in_features=7,
        out_features=13,
        real_part=real_part,
    )
    matrix = dense_oracle(twiddle, permutation=orders).reshape(stacks, n, n)[:, last]
    matrix = matrix.reshape(stacks * n, n)[:13, :7]
    matrix = matrix.real if real_part else matrix
    x = random_array(rng, (3, 7))
    out = jax.jit(lambda op, x: op(x, implementation=implementation))(operator, x)
    assert operator.shape == (13, 7)
    assert_close("call", out, x @ matrix.T, 2e-6)
    assert_close("matrix", jax.jit(ButterflyOperator.to_dense)(operator), matrix, 2e-6)
    with pytest.raises(ValueError, match="x must have 7 features"):
        operator(x[:, :6])


@pytest.mark.parametrize("alternating", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("ordered", [True, False])
def test_operator_transpose(ordered, blocks, alternating, rng):
    n = 8
    twiddle = jnp.asarray(random_twiddle(rng, twiddle_shape(n, blocks=blocks)))
    orders = np.stack([rng.permutation(n) for _ in range(blocks)]) if ordered else None
    operator = ButterflyOperator(
        twiddle,
        orders,
        rng.permutation(n) if ordered else None,
        increasing_stride=False,
        alternating=alternating,
        in_features=5,
        out_features=7,
    )

    @jax.jit
    def matrices(operator):
        transposed = operator.transpose()
        assert transposed.shape == (5, 7)
        return operator.to_dense(), transposed.to_dense(), transposed.transpose().to_dense()

    matrix, transposed, twice = matrices(operator)
    assert_close("transpose", transposed, matrix.T, 2e-6)
    assert_close("twice", twice, matrix, 2e-6)
    stacked = ButterflyOperator(jnp.tile(twiddle, (2, 1, 1, 1, 1, 1)))
    with pytest.raises(ValueError, match="2 stacks"):
        stacked.transpose()

"""monarch_multiply: every implementation against the definition, gradients, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly.monarch import monarch_init, monarch_to_dense, reference
from structlayers.butterfly.monarch.arg_specs import MONARCH_ARG_SPECS
from structlayers.butterfly.ops.monarch import dispatcher, monarch_multiply
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
    error_ratio,
)
from tests.butterfly.dense_oracle import random_array

IMPLEMENTATIONS = ("xla", "dense", "reference", None)
# blocks1 (k, q, p), blocks2 (l, s, r), inputs, outputs: l | q, q | l, neither, and the smallest
SIZES = (
    ((4, 6, 5), (3, 7, 8), 18, 20),
    ((2, 3, 4), (6, 2, 1), 8, 12),
    ((2, 6, 3), (4, 5, 3), 5, 17),
    ((3, 4, 5), (6, 3, 2), 15, 18),
    ((4, 4, 4), (4, 4, 4), 16, 16),
    ((1, 1, 1), (1, 1, 1), 1, 1),
)


def definition(blocks1: np.ndarray, blocks2: np.ndarray, inputs: int, outputs: int) -> np.ndarray:
    """The matrix, entry by entry in double precision."""
    k, q, p = blocks1.shape
    ell, s, _ = blocks2.shape
    matrix = np.zeros((s * ell, k * p), np.result_type(blocks1, blocks2, np.float64))
    for m in range(k * q):
        for i in range(s):
            for j in range(p):
                entry = blocks2[m % ell, i, m // ell] * np.float64(1) * blocks1[m // q, m % q, j]
                matrix[i * ell + m % ell, (m // q) * p + j] += entry
    return matrix[:outputs, :inputs]


def random_case(rng, size, dtype="float32", batch=(3,)):
    shape1, shape2, inputs, outputs = size
    blocks = random_array(rng, shape1, dtype), random_array(rng, shape2, dtype)
    return random_array(rng, (*batch, inputs), dtype), *blocks, outputs


@jax.jit
def every_product(cases):
    """All sizes by all implementations in one compilation: cut results, and whole ones of a row."""
    return {
        (size, name or "chosen"): (
            monarch_multiply(*args, out_features=SIZES[size][3], implementation=name),
            monarch_multiply(args[0][0, 0], *args[1:], implementation=name),
        )
        for size, args in cases.items()
        for name in IMPLEMENTATIONS
    }


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
def test_values(dtype: str, rng: np.random.Generator) -> None:
    wide = dtype in ("float64", "complex128")
    cases = {i: random_case(rng, size, dtype, batch=(2, 3))[:3] for i, size in enumerate(SIZES)}
    with jax.enable_x64(wide):
        products = jax.tree.map(np.asarray, every_product(cases))
    for (size, name), (value, row) in products.items():
        x, blocks1, blocks2 = cases[size]
        matrix = definition(blocks1, blocks2, x.shape[-1], blocks2.shape[0] * blocks2.shape[1])
        exact = x.astype(matrix.dtype) @ matrix.T
        assert value.dtype == dtype
        bound = 1e-15 if wide else 5e-7
        label = f"{SIZES[size]} {name}"
        assert_close(label, value, exact[..., : SIZES[size][3]], bound)
        assert_close(label, row, exact[0, 0], bound)


@pytest.mark.parametrize("implementation", ["xla", "dense", "reference"])
def test_dtypes(implementation: str, rng: np.random.Generator) -> None:
    x, blocks1, blocks2, _ = random_case(rng, ((4, 8, 8), (4, 8, 8), 32, 32))
    exact = x.astype(np.float64) @ definition(blocks1, blocks2, 32, 32).T
    multiply = functools.partial(monarch_multiply, implementation=implementation)
    for half, bound in ((jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)):
        low = [jnp.asarray(a, half) for a in (x, blocks1, blocks2)]
        assert multiply(*low).dtype == half
        assert error_ratio(multiply(*low).astype(jnp.float32), exact) < bound
        mixed = multiply(low[0], blocks1, blocks2)
        assert mixed.dtype == half
        wide = multiply(x, low[1], blocks2)
        assert wide.dtype == jnp.float32
    assert multiply(x, blocks1.astype(np.complex64), blocks2).dtype == jnp.complex64
    assert multiply(x.astype(np.complex64), blocks1, blocks2).dtype == jnp.complex64


def test_empty_batch() -> None:
    for name in IMPLEMENTATIONS:
        value = monarch_multiply(
            jnp.ones((0, 4)), jnp.ones((2, 2, 2)), jnp.ones((2, 2, 2)), implementation=name
        )
        assert value.shape == (0, 4)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_gradients(implementation: str, dtype: str, rng: np.random.Generator) -> None:
    for size in SIZES[:3]:
        *args, outputs = random_case(rng, size, dtype)
        assert_gradients_match(
            jax.jit(
                functools.partial(
                    monarch_multiply, out_features=outputs, implementation=implementation
                )
            ),
            jax.jit(functools.partial(reference.monarch_multiply, out_features=outputs)),
            [jnp.asarray(a) for a in args],
            2e-6,
        )


@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_half_precision_gradients(implementation: str, rng: np.random.Generator) -> None:
    *args, _ = random_case(rng, SIZES[4])
    args = [jnp.asarray(a, jnp.bfloat16) for a in args]
    multiply = functools.partial(monarch_multiply, implementation=implementation)
    assert_gradients_match(multiply, reference.monarch_multiply, args, 1e-2)


@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_second_derivatives(implementation: str, rng: np.random.Generator) -> None:
    x, blocks1, blocks2, _ = random_case(rng, ((2, 2, 3), (2, 2, 2), 6, 4), batch=())
    size1, size2 = blocks1.size, blocks2.size

    def energy(parameters: jax.Array, name: str) -> jax.Array:
        first = parameters[:size1].reshape(blocks1.shape)
        second = parameters[size1:].reshape(blocks2.shape)
        y = monarch_multiply(x, first, second, implementation=name)
        return jnp.sum(jnp.tanh(y) * y)

    point = jnp.concatenate([blocks1.ravel(), blocks2.ravel()])
    assert point.shape == (size1 + size2,)
    hessian = jax.jit(jax.hessian(energy), static_argnums=1)
    value = hessian(point, implementation)
    assert_close("Hessian", value, hessian(point, "reference"), 2e-6)
    assert_close("symmetry", value, value.T, 1e-6)
    _, tangent = jax.jvp(lambda v: jax.grad(energy)(v, implementation), (point,), (point,))
    assert_close("jvp of grad", tangent, value @ point, 2e-6)


def test_transformations(rng: np.random.Generator) -> None:
    x, blocks1, blocks2, outputs = random_case(rng, SIZES[0], batch=(2, 3))
    plain = monarch_multiply(x, blocks1, blocks2)
    assert_close(
        "vmap", jax.vmap(monarch_multiply, (0, None, None))(x, blocks1, blocks2), plain, 1e-6
    )
    many = jax.vmap(monarch_multiply)(
        x, jnp.stack([blocks1, -blocks1]), jnp.stack([blocks2, blocks2])
    )
    assert_close("vmap of blocks", many, plain * jnp.array([1.0, -1.0])[:, None, None], 1e-6)
    _, scanned = jax.lax.scan(lambda c, v: (c, monarch_multiply(v, blocks1, blocks2)), 0, x)
    assert_close("scan", scanned, plain, 1e-6)
    remat = jax.checkpoint(functools.partial(monarch_multiply, out_features=outputs))
    gradient = jax.grad(lambda v: jnp.sum(remat(v, blocks1, blocks2) ** 2))
    plain_gradient = jax.grad(
        lambda v: jnp.sum(monarch_multiply(v, blocks1, blocks2, out_features=outputs) ** 2)
    )
    assert_close("remat", gradient(x), plain_gradient(x), 1e-6)


def test_sharded_batch(rng: np.random.Generator) -> None:
    x, blocks1, blocks2, _ = random_case(rng, SIZES[0], batch=(8,))
    args = [jnp.asarray(a) for a in (x, blocks1, blocks2)]
    assert_sharded_equals_single(monarch_multiply, args, [0, None, None])


def test_linear_and_deterministic(rng: np.random.Generator) -> None:
    x, blocks1, blocks2, _ = random_case(rng, SIZES[0])
    multiply = jax.jit(monarch_multiply)
    np.testing.assert_array_equal(multiply(x, blocks1, blocks2), multiply(x, blocks1, blocks2))
    double = multiply(2 * x, blocks1, blocks2)
    assert_close("linear", double, 2 * multiply(x, blocks1, blocks2), 1e-7)


def test_choice() -> None:
    def shapes(rows: int, n: int, k: int, dtype=jnp.float32):
        return (
            jax.ShapeDtypeStruct((rows, n), dtype),
            jax.ShapeDtypeStruct((k, n // k, n // k), dtype),
            jax.ShapeDtypeStruct((n // k, k, k), dtype),
        )

    def choice(*args, platform: str) -> str:
        out = args[0].shape[-1]
        return dispatcher.choose(*args, platform=platform, out_features=out, precision=None).name

    assert choice(*shapes(64, 64, 8), platform="cpu") == "dense"
    assert choice(*shapes(1, 64, 8), platform="cpu") == "xla"
    assert choice(*shapes(4096, 1024, 32), platform="cpu") == "xla"
    # bfloat16 on a GPU: two passes pay from about N = 740, see the family's README
    assert choice(*shapes(65536, 256, 16, jnp.bfloat16), platform="gpu") == "dense"
    assert choice(*shapes(65536, 4096, 64, jnp.bfloat16), platform="gpu") == "xla"
    assert choice(*shapes(65536, 256, 16), platform="gpu") == "xla"
    why = dispatcher.choose(*shapes(64, 64, 8), platform="cpu", out_features=64, precision=None).why
    assert "64 rows" in why


@pytest.mark.parametrize("spec", MONARCH_ARG_SPECS, ids=lambda spec: spec.name)
def test_arg_specs(spec) -> None:
    x, _, blocks2 = spec.arrays
    out = jax.eval_shape(functools.partial(monarch_multiply, **spec.static), *spec.arrays)
    assert out.shape == (*x.shape[:-1], spec.static["out_features"])
    assert out.dtype == x.dtype
    assert out.shape[-1] <= blocks2.shape[0] * blocks2.shape[1]
    if "smoke" in spec.tags:
        rng = np.random.default_rng(0)
        args = [random_array(rng, a.shape, a.dtype) for a in spec.arrays]
        value = monarch_multiply(*args, **spec.static)
        matrix = monarch_to_dense(*args[1:], in_features=x.shape[-1], **spec.static)
        assert_close(spec.name, value, args[0] @ np.asarray(matrix).T, 1e-6)


def test_spec_names_are_unique() -> None:
    assert len({spec.name for spec in MONARCH_ARG_SPECS}) == len(MONARCH_ARG_SPECS)


def test_variance_of_init() -> None:
    blocks1, blocks2 = monarch_init(jax.random.key(0), 512, 1024, 8, dtype=jnp.complex64)
    assert blocks1.dtype == jnp.complex64
    x = jax.random.normal(jax.random.key(1), (64, 512))
    y = jax.jit(monarch_multiply)(x, blocks1, blocks2)
    assert float(jnp.mean(jnp.abs(y) ** 2)) == pytest.approx(1.0, rel=0.05)
    with pytest.raises(TypeError, match="dtype must be floating point or complex, got int32"):
        monarch_init(jax.random.key(0), 4, 4, 2, dtype=jnp.int32)


ONES = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((np.ones(8, "f"), ONES, np.ones((3, 5, 3), "f")), {}, ValueError, r"k q = l r"),
        ((np.ones(9, "f"), ONES, np.ones((2, 5, 3), "f")), {}, ValueError, r"1 and k p = 8 feat"),
        ((np.ones((2, 0), "f"), ONES, np.ones((2, 5, 3), "f")), {}, ValueError, "got shape .2, 0."),
        ((np.float32(1), ONES, np.ones((2, 5, 3), "f")), {}, ValueError, "last axis"),
        ((np.ones(8, "f"), ONES[0], ONES), {}, ValueError, r"blocks1 must have shape \(k, q, p\)"),
        ((np.ones(8, "f"), ONES, ONES[:0]), {}, ValueError, r"blocks2 must have shape \(l, s, r\)"),
        ((np.ones(8, "i"), ONES, np.ones((2, 5, 3), "f")), {}, TypeError, "x must be floating"),
        ((np.ones(8, "f"), ONES.astype("i"), ONES), {}, TypeError, "blocks1 must be floating"),
        (
            (np.ones(8, "f"), ONES, np.ones((2, 5, 3), "f")),
            {"out_features": 11},
            ValueError,
            "out_features must be at most s l = 10, got 11",
        ),
        (
            (np.ones(8, "f"), ONES, np.ones((2, 5, 3), "f")),
            {"implementation": "cuda"},
            ValueError,
            "unknown implementation 'cuda'",
        ),
        (
            (np.ones(8, "f"), ONES, np.ones((2, 5, 3), "f")),
            {"precision": "best"},
            ValueError,
            "precision must be",
        ),
    ],
)
def test_bad_input(args, options, error, message) -> None:
    with pytest.raises(error, match=message):
        monarch_multiply(*args, **options)

"""Every product by every implementation: values, gradients, transformations, sharding, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
    error_ratio,
)
from tests.structured.cases import CASES, FAST, dense, random_array

# Float32, relative: products of a few sums, or Fourier transforms, whose error grows as the root of
# log N. LDR-TD adds up rounding over N applications of the operators.
BOUND = {"ldr": 2e-6}
FLOAT32 = 1e-6


def as_jax(weights):
    """Arrays of JAX, but for permutations, whose values stay known."""
    return [w if w.dtype.kind == "i" else jnp.asarray(w) for w in weights]


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, dtype: str, rng: np.random.Generator):
    case, wide = CASES[name], dtype in ("float64", "complex128")
    for size in case.sizes:
        stacks = 2 if case.takes_stacks and size == 7 else None
        weights = case.weights(rng, size, dtype, stacks)
        matrix = dense(case, weights, stacks)
        x = random_array(rng, (2, 3, size), dtype)
        bound = 1e-13 if wide else BOUND.get(name, FLOAT32)
        with jax.enable_x64(wide):
            for implementation in (*case.implementations, None):
                run = functools.partial(case.multiply, implementation=implementation)
                value = np.asarray(run(x, *as_jax(weights)))
                assert value.dtype == dtype
                assert_close(f"{size} {implementation}", value, x @ matrix.T, bound)
            found = np.asarray(case.to_dense(*as_jax(weights)))
        assert_close("dense", found, matrix, bound)


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_padding_and_cut(name: str, implementation: str, rng: np.random.Generator):
    case = CASES[name]
    if not case.takes_stacks:
        pytest.skip("rectangular as it is")
    weights = case.weights(rng, 16, np.float32, 2)
    x = random_array(rng, (3, 11), "float32")
    exact = x @ dense(case, weights, 2).T[:11, :21]
    value = case.multiply(x, *weights, out_features=21, implementation=implementation)
    assert_close("cut", value, exact, 2e-6)
    rows = case.to_dense(*weights, out_features=21)
    assert_close("rows", rows, dense(case, weights, 2)[:21], 2e-6)
    vector = case.multiply(x[0], *weights, out_features=21, implementation=implementation)
    assert_close("one vector", vector, exact[0], 2e-6)


@pytest.mark.parametrize("rows", [1, 40])  # few and many rows take different orders in LDR-TD
@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_gradients(name: str, implementation: str, rows: int, rng: np.random.Generator):
    case = CASES[name]
    for dtype in ("float32", "complex64"):
        weights = as_jax(case.weights(rng, 8, dtype, None))
        known = [w for w in weights if w.dtype.kind == "i"]
        free = [w for w in weights if w.dtype.kind != "i"]

        def run(x, *free, implementation, known=known):
            return case.multiply(x, *free, *known, implementation=implementation)

        assert_gradients_match(
            jax.jit(functools.partial(run, implementation=implementation)),
            jax.jit(functools.partial(run, implementation="reference")),
            [jnp.asarray(random_array(rng, (rows, 8), dtype)), *free],
            2e-6,
        )


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_half_precision(name: str, implementation: str, rng: np.random.Generator):
    case = CASES[name]
    weights = case.weights(rng, 64, np.float32, None)
    x = random_array(rng, (50, 64), "float32")
    exact = x @ dense(case, weights, None).T
    run = functools.partial(case.multiply, implementation=implementation)
    for half, bound in ((jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)):
        low = [w if w.dtype.kind == "i" else jnp.asarray(w, half) for w in weights]
        kept = run(jnp.asarray(x, half), *weights)
        assert kept.dtype == half
        assert error_ratio(kept.astype(jnp.float32), exact) < bound
        assert run(jnp.asarray(x, half), *low).dtype == half
        assert run(x, *low).dtype == jnp.float32
    assert run(x.astype(np.complex64), *weights).dtype == jnp.complex64
    if name != "ldr":  # operators rounded to half precision are others, N powers apart
        low = [w if w.dtype.kind == "i" else jnp.asarray(w, jnp.bfloat16) for w in weights]
        value = run(jnp.asarray(x, jnp.bfloat16), *low).astype(jnp.float32)
        assert error_ratio(value, exact) < 1e-2


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_second_derivatives(name: str, implementation: str, rng: np.random.Generator):
    case = CASES[name]
    weights = case.weights(rng, 4, np.float32, None)
    free = [w for w in weights if w.dtype.kind != "i"]
    known = [w for w in weights if w.dtype.kind == "i"]
    sizes = np.cumsum([w.size for w in free])[:-1]
    x = jnp.asarray(random_array(rng, (4,), "float32"))

    def energy(point, implementation):
        parts = [p.reshape(w.shape) for p, w in zip(jnp.split(point, sizes), free, strict=True)]
        y = case.multiply(x, *parts, *known, implementation=implementation)
        return jnp.sum(jnp.tanh(0.1 * y) * y)

    point = jnp.concatenate([jnp.asarray(w).ravel() for w in free])
    hessian = jax.jit(jax.hessian(energy), static_argnums=1)  # forward over reverse
    value = hessian(point, implementation)
    assert_close("Hessian", value, hessian(point, "reference"), 5e-6)
    reverse = jax.jit(jax.jacrev(jax.grad(energy)), static_argnums=1)
    assert_close("reverse over reverse", reverse(point, implementation), value, 5e-6)
    _, tangent = jax.jvp(lambda p: energy(p, implementation), (point,), (point,))
    gradient = jax.grad(energy)(point, implementation)
    assert_close("jvp", tangent, gradient @ point, 1e-4)


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_transformations(name: str, implementation: str, rng: np.random.Generator):
    case = CASES[name]
    run = functools.partial(case.multiply, implementation=implementation)
    weights = as_jax(case.weights(rng, 8, np.float32, None))
    x = jnp.asarray(random_array(rng, (3, 2, 8), "float32"))
    plain = run(x, *weights)
    axes = (0, *(None,) * len(weights))
    assert_close("vmap", jax.vmap(lambda v: run(v, *weights))(x), plain, 2e-6)
    many = jax.vmap(run)(x, *(jnp.stack([w, w, w]) for w in weights))
    assert_close("vmap of weights", many, plain, 2e-6)
    assert_close("vmap of axes", jax.vmap(run, axes)(x, *map(jnp.asarray, weights)), plain, 2e-6)
    _, scanned = jax.lax.scan(lambda c, v: (c, run(v, *weights)), 0, x)
    assert_close("scan", scanned, plain, 2e-6)
    remat = jax.grad(lambda v: jnp.sum(jax.checkpoint(lambda v: run(v, *weights))(v) ** 2))
    exact = jax.grad(lambda v: jnp.sum(run(v, *weights) ** 2))
    assert_close("remat", remat(x), exact(x), 2e-6)
    twice = jax.jit(run)
    np.testing.assert_array_equal(twice(x, *weights), twice(x, *weights))


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_empty_batch(name: str, implementation: str, rng: np.random.Generator):
    case = CASES[name]
    weights = case.weights(rng, 8, np.float32, None)
    x = jnp.zeros((0, 8))
    out = case.multiply(x, *weights, implementation=implementation)
    assert out.shape == (0, 10 if name == "low_rank" else 8)
    gradient = jax.grad(
        lambda w: jnp.sum(case.multiply(x, w, *weights[1:], implementation=implementation))
    )
    np.testing.assert_array_equal(gradient(jnp.asarray(weights[0])), np.zeros(weights[0].shape))


@pytest.mark.parametrize(("name", "implementation"), FAST)
def test_sharded_batch(name: str, implementation: str, rng: np.random.Generator):
    """As on one device; since jax 0.12 Fourier transforms are partitioned over the batch too."""
    if implementation == "fft" and jax.__version_info__ < (0, 12):
        pytest.skip("older XLA gathers the batch of a Fourier transform")
    case = CASES[name]
    weights = as_jax(case.weights(rng, 16, np.float32, None))
    known = [w for w in weights if w.dtype.kind == "i"]
    free = [w for w in weights if w.dtype.kind != "i"]
    x = jnp.asarray(random_array(rng, (8, 16), "float32"))

    def run(x, *free):
        return case.multiply(x, *free, *known, implementation=implementation)

    assert_sharded_equals_single(run, [x, *free], [0, *(None,) * len(free)])

"""hadamard_multiply and sorf_multiply against Sylvester's matrix, gradients, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from structlayers.butterfly import hadamard, hadamard_multiply, sorf_multiply
from structlayers.butterfly.ops.hadamard import dispatcher
from structlayers.butterfly.walsh import reference, xla
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
    error_ratio,
)
from tests.butterfly.dense_oracle import random_array

IMPLEMENTATIONS = ("xla", "reference", None)


def sylvester(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
@pytest.mark.parametrize("n", [1, 2, 8, 128, 512])
def test_values(n: int, dtype: str, rng: np.random.Generator) -> None:
    x = random_array(rng, (2, 3, n), dtype)
    exact = x @ sylvester(n) / np.sqrt(n)
    with jax.enable_x64(dtype in ("float64", "complex128")):
        for name in IMPLEMENTATIONS:
            value = hadamard_multiply(x, implementation=name)
            assert value.dtype == dtype
            bound = 2e-15 if dtype in ("float64", "complex128") else 5e-7
            assert_close(str(name), np.asarray(value), exact, bound)


def test_norms_and_padding(rng: np.random.Generator) -> None:
    x = random_array(rng, (3, 5), "float32")
    padded = np.pad(x, ((0, 0), (0, 3)))
    for norm in ("ortho", "backward", "forward"):
        value = hadamard_multiply(x, size=8, norm=norm)
        assert_close(norm, value, hadamard(8, norm=norm)(padded), 1e-6)
    assert_close("own inverse", hadamard_multiply(hadamard_multiply(padded)), padded, 1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("n", [1, 2, 64, 128, 256, 1024, 2**13])
def test_groups(n: int, platform: str) -> None:
    radices = xla.group_radices(n, platform)
    assert np.prod(radices, initial=1) == n
    assert max(radices, default=1) <= (8 if platform == "cpu" else 128)


def test_groups_of_an_accelerator(monkeypatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(xla, "current_platform", lambda: "gpu")
    x = random_array(rng, (2, 512), "float32")
    value = xla.hadamard_multiply(jnp.asarray(x), scale=512**-0.5)
    assert_close("two groups", value, x @ sylvester(512) / np.sqrt(512), 5e-7)


def test_half_precision(rng: np.random.Generator) -> None:
    for n in (64, 512, 8192):
        for dtype, bound in ((jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)):
            x = jnp.asarray(100 * rng.standard_normal((2, n)), dtype)
            value = hadamard_multiply(x)
            assert value.dtype == dtype
            exact = reference.hadamard_multiply(x.astype(jnp.float32), scale=n**-0.5)
            assert error_ratio(value, exact) < bound


def test_derivatives(rng: np.random.Generator) -> None:
    x = jnp.asarray(random_array(rng, (3, 32), "float32"))
    fixed = functools.partial(reference.hadamard_multiply, scale=32**-0.5)
    assert_gradients_match(jax.jit(hadamard_multiply), fixed, [x], 1e-6)
    check_grads(lambda v: jnp.tanh(hadamard_multiply(v)), (x,), order=2, atol=2e-2, rtol=2e-2)


def test_transformations(rng: np.random.Generator) -> None:
    x = jnp.asarray(random_array(rng, (4, 2, 16), "float32"))
    plain = hadamard_multiply(x)
    assert_close("vmap", jax.vmap(hadamard_multiply)(x), plain, 1e-6)
    _, scanned = jax.lax.scan(lambda c, v: (c, hadamard_multiply(v)), 0, x)
    assert_close("scan", scanned, plain, 1e-6)
    assert hadamard_multiply(jnp.ones((0, 16))).shape == (0, 16)
    assert_sharded_equals_single(
        hadamard_multiply, [jnp.asarray(random_array(rng, (8, 16), "float32"))], [0]
    )


def test_sorf(rng: np.random.Generator) -> None:
    signs = rng.choice([-1.0, 1.0], (3, 16)).astype(np.float32)
    x = random_array(rng, (4, 11), "float32")
    exact = np.pad(x, ((0, 0), (0, 5))).astype(np.float64)
    for diagonal in signs:
        exact = (exact * diagonal) @ sylvester(16) / 4
    assert_close("product", jax.jit(sorf_multiply)(x, signs), exact, 1e-6)
    norms = np.linalg.norm(np.asarray(sorf_multiply(x, signs)), axis=-1)
    np.testing.assert_allclose(norms, np.linalg.norm(x, axis=-1), rtol=1e-6)

    def plain(x: jax.Array, signs: jax.Array) -> jax.Array:
        return sorf_multiply(x, signs, implementation="reference")

    args = [jnp.asarray(x), jnp.asarray(random_array(rng, (2, 16), "float32"))]
    assert_gradients_match(jax.jit(sorf_multiply), plain, args, 2e-6)
    half = sorf_multiply(x.astype(jnp.bfloat16), signs)
    assert half.dtype == jnp.bfloat16
    assert error_ratio(half.astype(jnp.float32), exact) < 1e-2
    assert sorf_multiply(x, signs.astype(np.complex64)).dtype == jnp.complex64


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": np.ones(6, "f")}, ValueError, "the last axis of x .*power of two, got 6"),
        ({"x": np.ones(6, "f"), "size": 12}, ValueError, "size must be a power of two, got 12"),
        ({"x": np.ones(6, "f"), "size": 4}, ValueError, "size must be at least n = 6, got 4"),
        ({"x": np.ones(8, "i")}, TypeError, "x must be floating point or complex"),
        ({"x": np.float32(1)}, ValueError, r"x must have shape \(\*B, n\)"),
        ({"x": np.ones(8, "f"), "norm": "unit"}, ValueError, "norm must be one of 'ortho'"),
        ({"x": np.ones(8, "f"), "implementation": "cuda"}, ValueError, "unknown implementation"),
    ],
)
def test_bad_input(options, error, message) -> None:
    with pytest.raises(error, match=message):
        hadamard_multiply(**options)


@pytest.mark.parametrize(
    ("x", "signs", "error", "message"),
    [
        (np.ones(9, "f"), np.ones((3, 8), "f"), ValueError, "between 1 and N = 8 features"),
        (np.ones(8, "f"), np.ones(8, "f"), ValueError, r"signs must have shape \(K, N\)"),
        (np.ones(6, "f"), np.ones((3, 6), "f"), ValueError, "N, the last axis of signs"),
        (np.ones(8, "f"), np.ones((3, 8), "i"), TypeError, "signs must be floating"),
    ],
)
def test_bad_sorf_input(x, signs, error, message) -> None:
    with pytest.raises(error, match=message):
        sorf_multiply(x, signs)


def test_choice() -> None:
    shape = jax.ShapeDtypeStruct((8, 64), "float32")
    assert dispatcher.choose(shape, scale=1.0, precision=None).name == "xla"

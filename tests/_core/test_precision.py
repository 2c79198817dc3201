"""Precision words and accumulation dtypes."""

import jax
import jax.numpy as jnp
import pytest

from structlayers._core.precision import accumulation_dtype, canonicalize_precision


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, jax.lax.Precision.HIGHEST),
        ("default", jax.lax.Precision.DEFAULT),
        ("high", jax.lax.Precision.HIGH),
        ("highest", jax.lax.Precision.HIGHEST),
        (jax.lax.Precision.HIGH, jax.lax.Precision.HIGH),
    ],
)
def test_precision_words(given, expected):
    assert canonicalize_precision(given) is expected
    product = jnp.matmul(jnp.ones((2, 2)), jnp.eye(2), precision=canonicalize_precision(given))
    assert jnp.array_equal(product, jnp.ones((2, 2)))


@pytest.mark.parametrize("given", ["float32", "HIGHEST", ""])
def test_other_precisions_are_refused_by_value(given):
    with pytest.raises(ValueError, match=f"precision must be None, .*, got {given!r}"):
        canonicalize_precision(given)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (jnp.bfloat16, "float32"),
        (jnp.float16, "float32"),
        (jnp.float8_e4m3fn, "float32"),
        (jnp.float32, "float32"),
        (jnp.complex64, "complex64"),
        (jnp.int8, "int8"),
        ("float64", "float64"),
        ("complex128", "complex128"),
    ],
)
def test_accumulation_dtype(dtype, expected):
    assert accumulation_dtype(dtype) == jnp.dtype(expected)

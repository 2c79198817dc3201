"""Argument checks: what passes, and what the messages name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structlayers._core import checks


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_positive_integers_pass(value):
    result = checks.require_positive("size", value)
    assert result == value
    assert type(result) is int


@pytest.mark.parametrize("value", [0, -4])
def test_non_positive_sizes_are_refused(value):
    with pytest.raises(ValueError, match=f"size must be at least 1, got {value}"):
        checks.require_positive("size", value)


@pytest.mark.parametrize("value", [2.0, "8", None, True])
def test_non_integers_are_refused(value):
    with pytest.raises(TypeError, match=f"size must be an integer, got {value!r}"):
        checks.require_positive("size", value)


def test_choice():
    assert checks.require_choice("init", "haar", ("haar", "identity")) == "haar"
    with pytest.raises(ValueError, match="init must be one of 'haar', 'identity', got 'hair'"):
        checks.require_choice("init", "hair", ("haar", "identity"))


def test_shape():
    x = jax.ShapeDtypeStruct((5, 8), jnp.float32)
    checks.require_shape("x", x, ("B", 8))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 4\), got \(5, 8\)"):
        checks.require_shape("x", x, ("B", 4))
    with pytest.raises(ValueError, match=r"x must have shape \(8,\), got \(5, 8\)"):
        checks.require_shape("x", x, (8,))


@pytest.mark.parametrize(
    ("dtype", "inexact", "real"),
    [
        ("float32", True, True),
        ("bfloat16", True, True),
        ("complex64", True, False),
        ("int32", False, False),
        ("bool", False, False),
    ],
)
def test_dtype_kinds(dtype, inexact, real):
    x = jax.ShapeDtypeStruct((2,), dtype)
    for check, passes in ((checks.require_inexact, inexact), (checks.require_real, real)):
        if passes:
            check("x", x)
        else:
            with pytest.raises(TypeError, match=f"x must be .*, got {dtype}"):
                check("x", x)


@given(st.integers(1, 2**40))
def test_next_power_of_two_is_the_smallest(value):
    power = checks.next_power_of_two(value)
    assert checks.is_power_of_two(power)
    assert power // 2 < value <= power
    assert 2 ** checks.log2_exact(power) == power


@pytest.mark.parametrize("value", [3, 6, 1023])
def test_other_sizes_are_not_powers_of_two(value):
    assert not checks.is_power_of_two(value)
    with pytest.raises(ValueError, match=f"n must be a power of two, got {value}"):
        checks.require_power_of_two("n", value)


def test_zero_is_not_a_power_of_two():
    assert not checks.is_power_of_two(0)
    with pytest.raises(ValueError, match="value must be at least 1, got 0"):
        checks.next_power_of_two(0)

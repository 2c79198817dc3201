"""The error ratio: its value, its edges, and that `assert_close` can fail."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structlayers.testing import assert_close, error_ratio


def test_against_the_definition(rng):
    reference = rng.standard_normal((7, 3))
    value = reference + 1e-3 * rng.standard_normal((7, 3))
    expected = np.sqrt(np.mean((reference - value) ** 2)) / np.sqrt(np.mean(reference**2))
    assert error_ratio(value, reference) == pytest.approx(expected, rel=1e-12)


def test_complex_counts_both_parts():
    assert error_ratio([1 + 1j], [1 + 0j]) == pytest.approx(1.0)


@given(st.floats(1e-300, 1e300), st.floats(1e-6, 1.0))
def test_is_free_of_scale_and_does_not_overflow(scale, error):
    reference = np.asarray([scale, -scale])
    assert error_ratio(reference * (1 + error), reference) == pytest.approx(error, rel=1e-6)


def test_low_precision_is_compared_in_float64():
    reference = np.linspace(-3, 3, 101)
    ratio = error_ratio(jnp.asarray(reference, jnp.bfloat16), reference)
    assert 2**-12 < ratio < 2**-8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_is_infinitely_wrong(bad):
    assert error_ratio([1.0, bad], [1.0, 1.0]) == math.inf
    assert error_ratio([1.0, 1.0], [1.0, bad]) == math.inf
    assert error_ratio([bad], [bad]) == math.inf


def test_zero_reference():
    assert error_ratio([0.0], [0.0]) == 0.0
    assert error_ratio([1e-30], [0.0]) == math.inf
    assert error_ratio([1e-9], [0.0], scale=1.0) == pytest.approx(1e-9)


def test_scalars():
    assert error_ratio(1.5, 1.0) == 0.5


def test_empty_arrays_are_equal():
    assert error_ratio(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_nothing_is_broadcast():
    with pytest.raises(ValueError, match=r"value has shape \(1,\), reference has shape \(3,\)"):
        error_ratio([1.0], [1.0, 1.0, 1.0])


def test_text_is_refused():
    with pytest.raises(TypeError, match="value must be an array of numbers, got 'x'"):
        error_ratio("x", 1.0)


def test_assert_close_names_the_leaf_that_is_off():
    reference = {"w": np.asarray([1.0, -2.0]), "b": np.asarray([3.0])}
    value = {"w": np.asarray([1.0, -2.001]), "b": np.asarray([3.0])}
    assert_close("parameters", value, reference, 1e-2)
    with pytest.raises(AssertionError, match=r"parameters\['w'\]: error ratio 4.472e-04 is above"):
        assert_close("parameters", value, reference, 1e-4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.asarray([math.nan]), "y: error ratio inf"),
        (np.ones(2), r"y: shape \(2,\), reference \(1,\)"),
        ([np.ones(1)], "y: structure"),
    ],
)
def test_assert_close_fails(value, message):
    with pytest.raises(AssertionError, match=message):
        assert_close("y", value, np.ones(1), 1e-3)

"""Gradient comparison: right rules pass, wrong rules of every kind are caught."""

import jax
import jax.numpy as jnp
import pytest

from structlayers.testing import assert_gradients_match


def _matmul(x, w):
    return jnp.matmul(x, w, precision="highest")


@jax.custom_vjp
def _wrong_sign(x, w):
    return _matmul(x, w)


_wrong_sign.defvjp(
    lambda x, w: (_matmul(x, w), (x, w)),
    lambda residuals, g: (_matmul(g, residuals[1].T), -_matmul(residuals[0].T, g)),
)


@pytest.fixture
def args(rng):
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((3, 7))
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)


def test_equal_functions_pass(args):
    assert_gradients_match(_matmul, lambda x, w: jnp.einsum("ij,jk->ik", x, w), args, 1e-6)


def test_reference_runs_in_float64(args):
    seen = []

    def reference(x, w):
        seen.append((x.dtype, w.dtype))
        return jnp.einsum("ij,jk->ik", x, w)

    assert_gradients_match(_matmul, reference, args, [1e-6, 1e-6])
    assert {str(dtype) for pair in seen for dtype in pair} == {"float64"}


def test_wrong_gradient_is_named(args):
    with pytest.raises(AssertionError, match=r"gradient of argument 1: error ratio 2\.0"):
        assert_gradients_match(_wrong_sign, _matmul, args, 1e-3)
    assert_gradients_match(_wrong_sign, _matmul, args, 1e-6, argnums=[0])


def test_wrong_value_is_caught(args):
    with pytest.raises(AssertionError, match="value: error ratio"):
        assert_gradients_match(lambda x, w: _matmul(x, w) + 1, _matmul, args, 1e-3)


def test_complex_gradients(args):
    x, w = args
    z = jax.lax.complex(w, w[::-1])

    def op(x, z):
        return jnp.matmul(x.astype(z.dtype), z, precision="highest")

    assert_gradients_match(op, op, (x, z), 1e-6)
    with pytest.raises(AssertionError, match=r"gradient of argument 1: error ratio 2\.0"):
        assert_gradients_match(
            lambda x, z: op(x, 2 * jax.lax.stop_gradient(z) - z), op, (x, z), [1e-6, 1e-4]
        )


def test_integers_are_passed_on_and_not_differentiated(args):
    x, _ = args
    index = jnp.asarray([2, 0, 1])
    assert_gradients_match(lambda x, i: x[:, i], lambda x, i: jnp.take(x, i, 1), (x, index), 1e-7)


def test_pytrees_and_several_outputs(args):
    def op(params, x):
        return {"y": _matmul(x, params["w"]) + params["b"][None], "n": jnp.argmax(x)}

    x, w = args
    assert_gradients_match(op, op, ({"w": w, "b": -w[0]}, x), 1e-6)


def test_low_precision_has_its_own_bound(args):
    x, w = (a.astype(jnp.bfloat16) for a in args)
    assert_gradients_match(_matmul, _matmul, (x, w), 2**-7)
    with pytest.raises(AssertionError):
        assert_gradients_match(_matmul, _matmul, (x, w), 2**-12)


def test_nothing_to_differentiate_is_refused():
    with pytest.raises(ValueError, match="nothing to differentiate"):
        assert_gradients_match(jnp.sum, jnp.sum, (jnp.arange(3),), 1e-6)


def test_bounds_must_match_the_arguments(args):
    with pytest.raises(ValueError, match="bound has 3 entries for 2 gradients"):
        assert_gradients_match(_matmul, _matmul, args, [1e-6] * 3)

"""Permutations: fixed ones, their application, the learned relaxation and its rounding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import (
    apply_permutation,
    bit_reversal_permutation,
    even_odd_permutation,
    inverse_permutation,
    is_permutation,
    permutation_logits_shape,
    reverse_half_permutation,
    round_permutation,
    soft_permutation,
    soft_permutation_factor,
)
from structlayers.testing import assert_close, assert_gradients_match
from tests.butterfly.dense_oracle import random_array


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 1024])
def test_bit_reversal(n):
    levels = n.bit_length() - 1
    order = bit_reversal_permutation(n)
    expected = [int(f"{i:0{levels}b}"[::-1], 2) if levels else 0 for i in range(n)]
    assert order.tolist() == expected
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order[order], np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 6, 8])
def test_halves(n):
    x = np.arange(n)
    half = n // 2
    assert x[even_odd_permutation(n)].tolist() == [*range(0, n, 2), *range(1, n, 2)]
    first = [*x[:half][::-1], *x[half:]]
    second = [*x[: n - half], *x[n - half :][::-1]] if n > 1 else [0]
    assert x[reverse_half_permutation(n, 0)].tolist() == first
    assert x[reverse_half_permutation(n, 1)].tolist() == second


def test_inverse_and_check(rng):
    order = rng.permutation(20)
    np.testing.assert_array_equal(order[inverse_permutation(order)], np.arange(20))
    traced = jax.jit(inverse_permutation)(jnp.asarray(order))
    np.testing.assert_array_equal(traced, inverse_permutation(order))
    rows = np.stack([order, order[::-1]])
    assert is_permutation(rows)
    inverses = inverse_permutation(rows)
    np.testing.assert_array_equal(np.take_along_axis(rows, inverses, axis=1)[1], np.arange(20))
    assert not is_permutation(np.zeros(2, int))
    assert not is_permutation(np.arange(3.0))
    assert not is_permutation(np.array([1, 2, 3]))
    assert is_permutation(np.zeros(1, int))


@pytest.mark.parametrize("n", [1, 2, 16, 12])
def test_apply_equals_indexing_with_its_gradient(n, rng):
    orders = [rng.permutation(n), np.arange(n), even_odd_permutation(n)]
    if n & (n - 1) == 0:
        orders += [bit_reversal_permutation(n), np.arange(n) ^ (n - 1)]
    x = random_array(rng, (2, n, 3))
    ct = random_array(rng, (2, n, 3))
    for order, known in itertools.product(orders, (True, False)):
        given = order if known else jnp.asarray(order)
        out, pullback = jax.vjp(lambda x, p=given: apply_permutation(x, p, axis=1), x)
        np.testing.assert_array_equal(out, x[:, order])
        (gradient,) = pullback(jnp.asarray(ct))
        np.testing.assert_array_equal(gradient[:, order], ct)
    last = apply_permutation(np.arange(n), orders[0])
    np.testing.assert_array_equal(last, orders[0])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_hard_choices_are_the_limit_of_the_soft_ones(n, shared, rng):
    shape = permutation_logits_shape(n, shared=shared)
    assert shape == ((1, 3) if shared else (max(n.bit_length() - 2, 0), 3))
    x = random_array(rng, (5, n))
    jitted = jax.jit(soft_permutation)
    for _ in range(4):
        signs = rng.choice([-60.0, 60.0], shape).astype(np.float32)
        order = jax.jit(round_permutation, static_argnums=1)(signs, n)
        assert order.dtype == np.int32
        assert is_permutation(order)
        np.testing.assert_allclose(jitted(x, signs), x[:, order], atol=1e-6)


def test_choices_act_in_the_documented_order():
    """Even/odd first, then the reversals; large sizes before small ones."""
    n = 8
    for a, b, c in itertools.product((False, True), repeat=3):
        x = np.arange(n)
        for size in (8, 4):
            runs = x.reshape(-1, size)
            if a:
                runs = runs[:, even_odd_permutation(size)]
            if b:
                runs = runs[:, reverse_half_permutation(size, 0)]
            if c:
                runs = runs[:, reverse_half_permutation(size, 1)]
            x = runs.reshape(n)
        logits = np.where([[a, b, c]], 1.0, -1.0).astype(np.float32)
        np.testing.assert_array_equal(round_permutation(logits, n), x)


def test_even_odd_everywhere_is_bit_reversal():
    logits = np.array([[5.0, -5.0, -5.0]], np.float32)
    order = jax.jit(round_permutation, static_argnums=1)(logits, 256)
    np.testing.assert_array_equal(order, bit_reversal_permutation(256))


def test_soft_permutation_is_doubly_stochastic_and_linear(rng):
    n = 16
    logits = random_array(rng, permutation_logits_shape(n))
    matrix = np.asarray(soft_permutation(np.eye(n, dtype=np.float32), logits)).T
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    x = random_array(rng, (3, n), "complex64")
    assert_close("complex", soft_permutation(x, logits), x @ matrix.T, 2e-6)
    assert_close(
        "vmap over logits",
        jax.vmap(soft_permutation, (None, 0))(x, jnp.stack([logits, -logits]))[0],
        soft_permutation(x, logits),
        1e-6,
    )


def reference_soft_permutation(x, logits):
    """P_4 ... P_N as matrices."""
    n = x.shape[-1]
    for level in range(max(n.bit_length() - 2, 0)):
        size = n >> level
        for choice, order in enumerate(
            (
                even_odd_permutation(size),
                reverse_half_permutation(size, 0),
                reverse_half_permutation(size, 1),
            )
        ):
            p = jax.nn.sigmoid(logits[level, choice]).astype(x.dtype)
            runs = x.reshape(*x.shape[:-1], -1, size)
            x = ((1 - p) * runs + p * runs[..., order]).reshape(x.shape)
    return x


def test_soft_permutation_gradients(rng):
    x = random_array(rng, (3, 16))
    logits = random_array(rng, permutation_logits_shape(16))
    assert_gradients_match(
        jax.jit(soft_permutation), jax.jit(reference_soft_permutation), (x, logits), 2e-6
    )


def test_extra_factor_is_the_first_level(rng):
    x, logits = random_array(rng, (3, 4)), random_array(rng, (3,))
    expected = soft_permutation(x, logits[None])
    assert_close("size 4", soft_permutation_factor(x, logits), expected, 1e-6)
    six = soft_permutation_factor(
        np.arange(6.0, dtype=np.float32), np.array([60, -60, 60], np.float32)
    )
    np.testing.assert_allclose(six, [0.0, 2.0, 4.0, 5.0, 3.0, 1.0], atol=1e-6)
    one = soft_permutation_factor(np.ones((2, 1), np.float32), logits)
    assert one.shape == (2, 1)


def test_rounding_under_jit_and_vmap(rng):
    logits = jnp.asarray(random_array(rng, (4, *permutation_logits_shape(32))))
    orders = jax.jit(jax.vmap(lambda t: round_permutation(t, 32)))(logits)
    single = jax.jit(round_permutation, static_argnums=1)
    for row, order in zip(logits, orders, strict=True):
        np.testing.assert_array_equal(order, single(row, 32))


def test_empty_batch_and_half_precision(rng):
    logits = random_array(rng, permutation_logits_shape(8))
    assert soft_permutation(np.zeros((0, 8), np.float32), logits).shape == (0, 8)
    out = soft_permutation(jnp.ones((2, 8), jnp.bfloat16), logits)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(out, np.float32), 1)


def test_bad_arguments_are_refused(rng):
    x, logits = random_array(rng, (2, 8)), random_array(rng, (2, 3))
    for n in (0, 3, -4):
        with pytest.raises(ValueError, match="n must be"):
            bit_reversal_permutation(n)
    with pytest.raises(ValueError, match="n must be even"):
        even_odd_permutation(7)
    with pytest.raises(ValueError, match="half must be 0 or 1"):
        reverse_half_permutation(8, 2)
    with pytest.raises(ValueError, match=r"each of 0 \.\. 2 once"):
        inverse_permutation(np.array([0, 0, 1]))
    with pytest.raises(TypeError, match="must hold integers"):
        inverse_permutation(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="a last axis of 8"):
        apply_permutation(x, np.arange(4))
    with pytest.raises(ValueError, match=r"each of 0 \.\. 7 once"):
        apply_permutation(x, np.zeros(8, int))
    with pytest.raises(ValueError, match=r"logits must have shape \(1, 3\), shared, or \(2, 3\)"):
        soft_permutation(x, logits[:, :2])
    with pytest.raises(ValueError, match="logits must have shape"):
        round_permutation(logits, 32)
    with pytest.raises(ValueError, match="power of two"):
        soft_permutation(x[:, :6], logits)
    with pytest.raises(ValueError, match=r"logits must have shape \(3,\)"):
        soft_permutation_factor(x, logits)
    with pytest.raises(ValueError, match="two halves"):
        soft_permutation_factor(x[:, :7], logits[0])
    with pytest.raises(TypeError, match="logits must be real"):
        soft_permutation(x, logits.astype(np.complex64))
    with pytest.raises(TypeError, match="x must be"):
        soft_permutation(np.arange(8), logits)

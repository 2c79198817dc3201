"""The sharding helper passes what is independent over the batch, and catches what is not."""

import jax
import jax.numpy as jnp
import pytest

from structlayers.testing import assert_sharded_equals_single


@pytest.fixture
def args(rng):
    x, w = rng.standard_normal((16, 4)), rng.standard_normal((4, 3))
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)


def _layer(x, w):
    return jnp.tanh(jnp.matmul(x, w, precision="highest"))


def test_independent_batches_pass(args):
    assert_sharded_equals_single(_layer, args, (0, None), modes=("automatic", "explicit"))


def test_other_axes_and_pytrees(args):
    x, w = args
    assert_sharded_equals_single(
        lambda tree, w: {"y": _layer(tree["x"].T, w), "n": jnp.asarray(3)},
        ({"x": x.T}, w),
        (1, None),
        num_devices=4,
    )


def test_a_batch_that_must_be_gathered_is_caught(args):
    with pytest.raises(AssertionError, match="value, automatic sharding: the program has an all-"):
        assert_sharded_equals_single(lambda x, w: _layer(jnp.sort(x, axis=0), w), args, (0, None))


def test_a_wrong_gradient_is_caught(args):
    @jax.custom_vjp
    def wrong(x, w):
        return _layer(x, w)

    # A gradient that depends on the size of the shard, as a forgotten sum over shards does.
    def backward(residuals, g):
        x, w = residuals
        mesh = jax.sharding.get_abstract_mesh()
        factor = 1.0 if mesh.empty else 2.0
        _, pull = jax.vjp(_layer, x, w)
        return tuple(factor * grad for grad in pull(g))

    wrong.defvjp(lambda x, w: (_layer(x, w), (x, w)), backward)
    with pytest.raises(AssertionError, match="gradient, explicit sharding"):
        assert_sharded_equals_single(wrong, args, (0, None), modes=("explicit",))
    assert_sharded_equals_single(wrong, args, (0, None), modes=("explicit",), gradients=False)


def test_bad_calls_are_refused(args):
    with pytest.raises(ValueError, match="at least 2 devices, got 1"):
        assert_sharded_equals_single(_layer, args, (0, None), num_devices=1)
    with pytest.raises(ValueError, match="batch_axes has 1 entries for 2 arguments"):
        assert_sharded_equals_single(_layer, args, (0,))
    with pytest.raises(ValueError, match=r"8 devices do not divide axis 1 of shape \(16, 4\)"):
        assert_sharded_equals_single(_layer, args, (1, None))

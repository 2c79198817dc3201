"""LearnedPermutation: soft, hard, and what joins them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from structlayers.butterfly import bit_reversal_permutation
from structlayers.butterfly.layers import LearnedPermutation


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("features", [1, 2, 4, 32])
def test_soft_is_doubly_stochastic(features: int, shared: bool):
    layer = LearnedPermutation(features, shared=shared, rngs=nnx.Rngs(0))
    levels = max(features.bit_length() - 2, 0)
    assert layer.logits.shape == ((1, 3) if shared else (levels, 3))
    matrix = np.asarray(layer(jnp.eye(features)))
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(0), np.ones(features), rtol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), np.ones(features), rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_hard_is_the_limit_of_soft(rng, shared: bool):
    layer = LearnedPermutation(16, shared=shared, rngs=nnx.Rngs(5))
    layer.logits[...] = 40 * jnp.sign(layer.logits[...])
    x = jnp.asarray(rng.standard_normal((3, 16)), jnp.float32)
    np.testing.assert_allclose(layer(x), layer(x, hard=True), atol=1e-6)
    np.testing.assert_array_equal(layer(x, hard=True), x[:, layer.round()])
    assert sorted(layer.round().tolist()) == list(range(16))


def test_learns_bit_reversal(rng):
    """From its own random start, by Adam on the relaxation; then the rounding is exact."""
    layer = LearnedPermutation(16, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((64, 16)), jnp.float32)
    target = x[:, bit_reversal_permutation(16)]
    graphdef, state = nnx.split(layer)
    optimizer = optax.adam(0.1)

    @jax.jit
    def train(state: nnx.State) -> nnx.State:
        def step(_, carry: tuple) -> tuple:
            state, memory = carry

            def loss(state: nnx.State) -> jax.Array:
                return jnp.mean((nnx.merge(graphdef, state)(x) - target) ** 2)

            updates, memory = optimizer.update(jax.grad(loss)(state), memory, state)
            return optax.apply_updates(state, updates), memory

        return jax.lax.fori_loop(0, 300, step, (state, optimizer.init(state)))[0]

    with jax.numpy_dtype_promotion("standard"):  # inside optax
        layer = nnx.merge(graphdef, train(state))
    np.testing.assert_array_equal(layer.round(), bit_reversal_permutation(16))
    np.testing.assert_array_equal(layer(x, hard=True), target)


def test_dtypes(rng):
    layer = LearnedPermutation(8, rngs=nnx.Rngs(0))
    for dtype in (jnp.bfloat16, jnp.float32, jnp.complex64):
        assert layer(jnp.ones((2, 8), dtype)).dtype == dtype
        assert layer(jnp.ones((2, 8), dtype), hard=True).dtype == dtype
    with jax.numpy_dtype_promotion("standard"):
        assert layer(jnp.arange(8, dtype=jnp.int32)).dtype == jnp.float32
    narrow = LearnedPermutation(8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert narrow(jnp.ones((2, 8))).dtype == jnp.bfloat16


def test_bad_input():
    with pytest.raises(ValueError, match="features must be a power of two, got 12"):
        LearnedPermutation(12, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="param_dtype must be real"):
        LearnedPermutation(8, param_dtype=jnp.int32, rngs=nnx.Rngs(0))
    layer = LearnedPermutation(8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 8\), got \(8, 4\)"):
        layer(jnp.zeros((8, 4)), hard=True)

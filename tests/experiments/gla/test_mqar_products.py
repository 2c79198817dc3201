import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.gla.mqar.products import untransposed


def runs_of(dtype, *, use_bias, changed):
    """The layers of two runs side by side, and the gradients of the loss of each."""
    layer = nnx.Linear(5, 3, use_bias=use_bias, dtype=dtype, precision="highest", rngs=nnx.Rngs(0))
    if changed:
        untransposed(layer)
    graph, values = nnx.split(layer)
    values = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), values)

    def loss(values, inputs):
        outputs = nnx.merge(graph, values)(inputs)
        return jnp.sum(outputs.astype(jnp.float32) ** 2)

    return values, jax.vmap(jax.grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_gradients_are_those_of_the_layer(rng, lead, dtype, error, use_bias):
    inputs = jnp.asarray(rng.standard_normal((2, *lead, 5)), dtype)
    values, gradients = runs_of(jnp.dtype(dtype), use_bias=use_bias, changed=True)
    _, plain = runs_of(jnp.dtype(dtype), use_bias=use_bias, changed=False)
    found, expected = gradients(values, inputs), plain(values, inputs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=error, atol=error * np.abs(b).max())


@pytest.mark.parametrize("changed", [False, True])
def test_gradients_of_kernels_are_not_transposed(changed):
    values, gradients = runs_of(None, use_bias=False, changed=changed)
    lowered = jax.jit(lambda *args: gradients(*args)[0]).lower(values, jnp.ones((2, 7, 5)))
    assert ("stablehlo.transpose" in lowered.as_text()) is not changed

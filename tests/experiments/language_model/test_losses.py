import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.language_model.losses import cross_entropy
from structlayers._core.dispatch import assume_platform


def by_definition(logits, words):
    """Losses, and the gradient of their sum, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    wanted = np.arange(logits.shape[-1]) == np.asarray(words)[..., None]
    return -np.where(wanted, log_p, 0).sum(axis=-1), np.exp(log_p) - wanted


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("scale", [1e-3, 5.0, 1e4])
@pytest.mark.parametrize("shape", [(3, 1), (7,), (2, 5, 1001)])
def test_losses_and_gradients(rng, shape, scale, platform):
    logits = jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
    words = jnp.asarray(rng.integers(0, shape[-1], shape[:-1]), jnp.int32)
    with assume_platform(platform):
        losses = cross_entropy(logits, words)
        gradient = jax.grad(lambda logits: cross_entropy(logits, words).sum())(logits)
    expected, slopes = by_definition(logits, words)
    np.testing.assert_allclose(losses, expected, rtol=1e-6, atol=1e-6 * max(scale, 1))
    np.testing.assert_allclose(gradient, slopes, atol=2e-6 * max(scale / 5, 1))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_words_that_cannot_be_and_logits_that_are_no_numbers(platform):
    logits = jnp.array([[-jnp.inf, 0.0, 0.0], [1.0, jnp.nan, 2.0]])
    with assume_platform(platform):
        first, second = cross_entropy(logits, jnp.array([2, 0])).tolist()
    assert first == pytest.approx(math.log(2), rel=1e-6)
    assert math.isnan(second)


def test_logits_in_parts_are_reduced_where_they_are(rng):
    """On a mesh that shards words and vocabulary no logits are exchanged."""
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    logits = jnp.asarray(5 * rng.standard_normal((16, 256)), jnp.float32)
    words = jnp.asarray(rng.integers(0, 256, 16), jnp.int32)
    parts = jax.device_put(logits, NamedSharding(mesh, P("data", "tensor")))
    targets = jax.device_put(words, NamedSharding(mesh, P("data")))
    with assume_platform("gpu"):
        run = jax.jit(jax.value_and_grad(lambda *a: cross_entropy(*a).sum()))
        compiled = run.lower(parts, targets).compile()
    value, gradient = compiled(parts, targets)
    expected, slopes = by_definition(logits, words)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, slopes, atol=2e-6)
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", str(compiled.as_text()))
    assert gathered
    assert max(math.prod(map(int, sizes.split(","))) for sizes in gathered) <= 8 * 4

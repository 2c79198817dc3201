import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.butterfly.resnet import paper
from experiments.butterfly.resnet.config import ResNetConfig
from experiments.butterfly.resnet.experiment import ResNetExperiment
from experiments.butterfly.resnet.model import EXTRA, ResNet
from experiments.butterfly.resnet.train import (
    PAD,
    Trainer,
    accuracy,
    augment,
    decayed,
    initialize,
    normalize,
    train_epoch,
)

TRAINER = Trainer(
    "bpbp",
    width=2,
    blocks=1,
    dtype="float32",
    batch=4,
    learning_rate=0.1,
    decay=0.2,
    decay_epochs=25,
    weight_decay=0.01,
    momentum=0.9,
)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (10, 32, 32, 3)), jnp.uint8)
    return pixels, jnp.asarray(rng.integers(0, 10, 10), jnp.int32)


@pytest.mark.parametrize(("extra", "more"), [("none", 0), ("dense", 512 * 513), ("bpbp", None)])
def test_parameters_of_the_papers_network(extra, more):
    """11.17 million, and what the layer adds; the butterfly's factors 0.07 %, as the paper says."""
    network = nnx.eval_shape(
        lambda: ResNet(extra, width=64, blocks=2, dtype="float32", rngs=nnx.Rngs(0))
    )
    count = sum(int(leaf.size) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    added = count - 11_173_962
    if more is None:
        assert added == 16 * 511 + 512  # two tied complex butterflies and a bias
        assert round(100 * (16 * 511) / 11_173_962, 2) == 0.07
    else:
        assert added == more


def test_crops_and_mirror_images(images):
    pixels = images[0]
    found = np.asarray(augment(jax.random.key(3), pixels))
    padded = np.pad(np.asarray(pixels), [(0, 0), (PAD, PAD), (PAD, PAD), (0, 0)])
    flips = 0
    for image, wide in zip(found, padded, strict=True):
        windows = [
            (wide[i : i + 32, j : j + 32][:, :: 1 - 2 * flip], flip)
            for i in range(2 * PAD + 1)
            for j in range(2 * PAD + 1)
            for flip in (0, 1)
        ]
        matches = [flip for window, flip in windows if np.array_equal(image, window)]
        assert len(matches) == 1
        flips += matches[0]
    assert 0 < flips < len(found)
    assert not np.array_equal(found, np.asarray(augment(jax.random.key(4), pixels)))


def test_weight_decay_spares_the_factors_of_the_butterfly():
    parameters = jax.eval_shape(lambda: initialize(TRAINER, jax.random.key(0)))["parameters"]
    mask = decayed(parameters)
    assert mask["extra"] == {"bias": True, "twiddle": False}
    assert all(jax.tree.leaves({**mask, "extra": True}))


def test_learning_rate_steps():
    rates = [float(TRAINER.rate(jnp.int32(epoch))) for epoch in (0, 24, 25, 75)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.02, 0.0008], rtol=1e-5)


def test_a_step_is_plain_sgd(images):
    """The first batch of an epoch against gradients taken by hand."""
    pixels, labels = images
    trainer = dataclasses.replace(TRAINER, batch=8, weight_decay=0.0)
    state = initialize(trainer, jax.random.key(0))
    key = jax.random.key(5)
    after, loss = train_epoch(
        trainer, jax.tree.map(jnp.copy, state), key, jnp.int32(0), pixels, labels
    )
    order_key, augment_key = jax.random.split(jax.random.fold_in(key, 0))
    index = jax.random.permutation(order_key, 10)[:8]
    batch = normalize(augment(jax.random.split(augment_key, 1)[0], pixels[index]))

    def objective(parameters):
        model = nnx.merge(trainer.graph, parameters, state["statistics"])
        model.train()
        return optax.softmax_cross_entropy_with_integer_labels(model(batch), labels[index]).mean()

    value, gradients = jax.jit(jax.value_and_grad(objective))(state["parameters"])
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    jax.tree.map(
        lambda new, old, slope: np.testing.assert_allclose(
            new, old - 0.1 * slope, rtol=1e-4, atol=1e-5
        ),
        after["parameters"],
        state["parameters"],
        gradients,
    )
    moved = jax.tree.map(
        lambda new, old: bool(jnp.any(new != old)), after["statistics"], state["statistics"]
    )
    assert all(jax.tree.leaves(moved))


def test_accuracy_counts_every_image_once(images):
    pixels = images[0]
    state = initialize(TRAINER, jax.random.key(0))
    model = nnx.merge(TRAINER.graph, state["parameters"], state["statistics"])
    model.eval()
    guesses = jnp.argmax(model(normalize(pixels)), axis=-1).astype(jnp.int32)
    assert float(accuracy(TRAINER, state, pixels, guesses, chunk=3)) == 1
    wrong = guesses.at[4].set((guesses[4] + 1) % 10)
    assert float(accuracy(TRAINER, state, pixels, wrong, chunk=3)) == pytest.approx(0.9)


def test_metrics():
    config = ResNetConfig(extra_layers=("none", "bpbp"), seeds=2)
    runs = {
        f"{extra}_seed{seed}": {"extra": extra, "test_accuracy": value + seed, "parameters": 7}
        for extra, value in (("none", 90.0), ("bpbp", 92.0))
        for seed in range(2)
    }
    metrics = ResNetExperiment(config).finish(runs)
    assert metrics["bpbp/test_accuracy"] == 92.5
    assert metrics["bpbp/gain_over_none"] == 2.0
    assert metrics["none/test_accuracy_std"] == pytest.approx(0.5**0.5)
    names = [phase.name for phase in config.build().phases()]
    assert names == ["none_seed0", "bpbp_seed0", "none_seed1", "bpbp_seed1"]
    assert set(names) == set(runs)


def test_config():
    assert set(paper.EXTRA_LAYERS) == set(EXTRA)
    assert ResNetConfig().smoke().goals() == ()
    with pytest.raises(ValueError, match="extra_layers must be among none, dense, bpbp; got 'fc'"):
        ResNetConfig(extra_layers=("fc",))
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        ResNetConfig(seeds=0)

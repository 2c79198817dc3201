import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.butterfly.compression import paper
from experiments.butterfly.compression.config import METHODS as CONFIG_METHODS
from experiments.butterfly.compression.config import CompressionConfig
from experiments.butterfly.compression.data import Rows, make_splits
from experiments.butterfly.compression.experiment import choose
from experiments.butterfly.compression.methods import METHODS, SingleHiddenLayer, compression
from experiments.butterfly.compression.ranking import rank
from experiments.butterfly.compression.train import (
    Trainer,
    accuracy,
    initialize,
    train_epoch,
)
from experiments.data.images import Images, ImageSet, synthetic_images

N = 16
RATES = (0.05, 0.2)


def trainer_of(method):
    return Trainer(method, N, use_bias=True, precision="highest", momentum=0.9, batch=8)


def rows_of(rng, count):
    return Rows(
        jnp.asarray(rng.standard_normal((count, N)), jnp.float32),
        jnp.asarray(rng.integers(0, 10, count), jnp.int32),
    )


@pytest.mark.parametrize("method", METHODS)
def test_matrix_has_the_parameters_stated(method):
    model = SingleHiddenLayer(method, 1024, use_bias=False, precision="default", rngs=nnx.Rngs(0))
    counted = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.hidden, nnx.Param)))
    assert counted == METHODS[method].parameters(1024)


@pytest.mark.parametrize("method", [name for name in METHODS if name in paper.METHODS])
def test_compression_is_the_papers(method):
    found = 1.0 if method == "unconstrained" else round(compression(method, 1024), 1)
    assert found == paper.compression(method)


@pytest.mark.parametrize("method", ["unconstrained", "bpbp_complex", "low_rank"])
def test_runs_side_by_side_are_plain_sgd(method, rng):
    """Two epochs of every run against a loop over one run with optax's own SGD."""
    trainer, train, validation = trainer_of(method), rows_of(rng, 37), rows_of(rng, 11)
    keys, orders = jax.random.split(jax.random.key(1), (2, 3))
    state = initialize(trainer, keys, len(RATES))
    losses = []
    for epoch in range(2):
        state, loss, _ = train_epoch(
            trainer, state, orders, jnp.array(RATES), jnp.int32(epoch), train, validation
        )
        losses.append(loss)
    seed, rate = 2, 1
    model = trainer.model(keys[seed])
    optimizer = nnx.Optimizer(model, optax.sgd(RATES[rate], momentum=0.9), wrt=nnx.Param)

    def objective(model, features, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model(features), labels).mean()

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(orders[seed], epoch), 37)
        values = []
        for start in range(0, 32, 8):
            index = order[start : start + 8]
            batch = (train.features[index], train.labels[index])
            value, gradients = nnx.value_and_grad(objective)(model, *batch)
            optimizer.update(model, gradients)
            values.append(value)
        np.testing.assert_allclose(losses[epoch][seed, rate], np.mean(values), rtol=1e-4)
    wanted = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    found = jax.tree.map(lambda leaf: leaf[seed, rate], state["parameters"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, wanted)


def test_accuracy_counts_every_row_once(rng):
    trainer, rows = trainer_of("unconstrained"), rows_of(rng, 1501)
    state = initialize(trainer, jax.random.split(jax.random.key(0), 2), 1)
    found = accuracy(trainer, state["parameters"], rows)
    assert found.shape == (2, 1)
    for seed in range(2):
        model = trainer.model(jax.random.split(jax.random.key(0), 2)[seed])
        guesses = np.asarray(model(rows.features)).argmax(axis=-1)
        wanted = np.mean(guesses == np.asarray(rows.labels))
        assert float(found[seed, 0]) == pytest.approx(wanted, abs=1e-6)


def test_run_that_is_not_finite_has_accuracy_zero(rng):
    trainer, rows = trainer_of("unconstrained"), rows_of(rng, 40)
    state = initialize(trainer, jax.random.split(jax.random.key(0), 1), 2)
    parameters = jax.tree.map(lambda leaf: leaf.at[:, 1].set(jnp.nan), state["parameters"])
    found = accuracy(trainer, parameters, rows)
    assert found[0, 1] == 0
    assert found[0, 0] > 0


def test_best_epoch_is_kept(rng):
    trainer, train, validation = trainer_of("bpbp_real"), rows_of(rng, 40), rows_of(rng, 30)
    keys = jax.random.split(jax.random.key(0), 2)
    state = initialize(trainer, keys, len(RATES))
    seen = []
    for epoch in range(6):
        state, _, found = train_epoch(
            trainer, state, keys, jnp.array(RATES), jnp.int32(epoch), train, validation
        )
        seen.append(np.asarray(found))
    np.testing.assert_array_equal(state["best_accuracy"], np.max(seen, axis=0))
    np.testing.assert_array_equal(state["best_epoch"], np.argmax(seen, axis=0))
    again = accuracy(trainer, state["best"], validation)
    np.testing.assert_array_equal(again, state["best_accuracy"])


def test_features_are_standardised_by_the_training_rows():
    images = ImageSet(synthetic_images(100, (3, 4)), synthetic_images(30, (3, 4), seed=1))
    images.train.pixels[:, 0, 0] = 7  # never changes
    splits = make_splits(images, 16, 0.15, seed=0)
    assert [len(rows.labels) for rows in splits_of(splits)] == [85, 15, 30]
    features = np.asarray(splits.train.features)
    assert (features[:, 12:] == 0).all()
    assert (features[:, 0] == 0).all()
    np.testing.assert_allclose(features[:, 1:12].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(features[:, 1:12].std(axis=0), 1, rtol=1e-4)
    assert splits.train.features.dtype == jnp.float32


def splits_of(splits):
    return [getattr(splits, field.name) for field in dataclasses.fields(splits)]


def test_training_and_validation_rows_are_apart():
    pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1)
    images = Images(pixels, np.zeros(40, np.uint8))
    splits = make_splits(ImageSet(images, images), 4, 0.25, seed=5)
    values = [np.asarray(rows.features)[:, 0] for rows in splits_of(splits)]
    assert not np.intersect1d(values[0], values[1]).size
    np.testing.assert_allclose(np.sort(np.concatenate(values[:2])), values[2])


def test_images_that_do_not_fit():
    images = synthetic_images(8, (3, 3))
    with pytest.raises(ValueError, match="at least the number of pixels, 9, got 8"):
        make_splits(ImageSet(images, images), 8, 0.5, seed=0)


def test_learning_rate_is_chosen_on_validation():
    result = {
        "learning_rates": [0.1, 0.2],
        "validation_accuracy": [[50.0, 40.0], [50.0, 56.0]],
        "test_accuracy": [[40.0, 90.0], [44.0, 90.0]],
        "best_epoch": [[3, 0], [5, 0]],
        "diverged": [[False, True], [False, False]],
        "parameters": 7,
        "all_parameters": 9,
        "compression": 2.5,
    }
    found = choose(result)
    assert found["test_accuracy"] == 42.0
    assert found["test_accuracy_std"] == pytest.approx(8**0.5)
    assert found["learning_rate"] == 0.1
    assert found["best_epoch"] == 4.0
    assert found["diverged_runs"] == 1.0


def test_ranking_of_the_paper_gives_every_pair():
    of_paper = {name: paper.accuracy(name, "cifar10_grey") or 0.0 for name in paper.METHODS}
    assert rank(of_paper, "cifar10_grey") == {
        "neighbours_in_paper_order": 7.0,
        "bpbp_complex/baselines_below": 6.0,
        "bpbp_real/baselines_below": 6.0,
    }
    assert rank(dict.fromkeys(paper.METHODS, 50.0), "cifar10_grey") == {
        "neighbours_in_paper_order": 0.0,
        "bpbp_complex/baselines_below": 0.0,
        "bpbp_real/baselines_below": 0.0,
    }


def test_config_names_the_methods_there_are():
    assert set(CONFIG_METHODS) == set(METHODS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("methods", ("bpbp",), "methods must be among .*'bpbp'"),
        ("learning_rates", (), "must each name at least one"),
        ("n", 1000, "n must be a power of two, at least 4; got 1000"),
        ("seeds", 0, "seeds must be at least 1"),
        ("validation_share", 1.0, "validation_share must be between 0 and 1"),
    ],
)
def test_config_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CompressionConfig(), **{field: value})


def test_smoke_preset_claims_nothing_of_the_paper():
    assert CompressionConfig().smoke().goals() == ()
    goals = {goal.metric: goal for goal in CompressionConfig().goals()}
    assert goals["bpbp_complex/baselines_below"].goal == 6


def test_goals_on_rebuilt_sets_are_rankings_alone():
    goals = {goal.metric: goal.goal for goal in CompressionConfig(dataset="mnist_noise").goals()}
    assert goals == {
        "neighbours_in_paper_order": 7,
        "bpbp_complex/baselines_below": 5,
        "bpbp_real/baselines_below": 4,
    }

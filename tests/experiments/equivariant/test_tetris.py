"""Tetris: shapes and their mirror images, invariance, what Gaunt's product cannot tell apart."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from experiments.config_files import CONFIGS, load
from experiments.equivariant import tetris

CONFIG: Any = load(CONFIGS / "equivariant" / "tetris.py").config


def scores(product: str, rotations: np.ndarray) -> np.ndarray:
    phase = dataclasses.replace(CONFIG, channels=2).build().phases()[0]
    phase = dataclasses.replace(phase, product=product)
    return np.asarray(phase._scores(phase.init()["weights"], tetris.graphs(rotations)))


def test_shapes_differ_and_the_first_two_are_mirror_images(rng):
    graph = tetris.graphs(tetris.random_rotations(rng, 8))
    assert len(graph.shape) == 32
    degrees = np.bincount(graph.receivers, minlength=32).reshape(8, 4).sum(1)
    assert degrees.tolist() == [6, 6, 6, 8, 6, 6, 6, 6]
    left, right = (np.asarray(tetris.SHAPES[f"{side} screw"], float) for side in ("left", "right"))
    np.testing.assert_array_equal(left * [1, 1, -1], right)

    def volume(blocks: np.ndarray) -> float:
        return float(np.linalg.det(np.diff(blocks, axis=0)))

    assert volume(left) == -volume(right) == 1


def test_rotations_are_rotations(rng):
    matrices = tetris.random_rotations(rng, 5)
    products = np.einsum("sij,skj->sik", matrices, matrices)
    np.testing.assert_allclose(products, np.tile(np.eye(3), (5, 1, 1)), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-14)


@pytest.mark.parametrize("product", tetris.PRODUCTS)
def test_networks_are_invariant_and_gaunt_sees_no_chirality(product, rng):
    """At random weights, so of all that training can reach."""
    plain = scores(product, np.tile(np.eye(3), (8, 1, 1)))
    turned = scores(product, tetris.random_rotations(rng, 8))
    np.testing.assert_allclose(turned, plain, atol=3e-5 * np.abs(plain).max())
    apart = np.abs(plain[0] - plain[1]).max() / np.abs(plain).max()
    assert (apart < 1e-5) == (product == "gaunt")


def test_smoke_preset_trains_and_every_goal_has_a_metric():
    config = CONFIG.smoke()
    experiment = config.build()
    (phase,) = experiment.phases()
    with jax.numpy_dtype_promotion("standard"):  # inside optax
        state, first = phase.advance(phase.init(), 0, 5)
        state, last = phase.advance(state, 5, 5)
    assert float(last["loss"]) < float(first["loss"])
    metrics = experiment.finish({phase.name: phase.finish(state)})
    assert {goal.metric for goal in config.goals()} <= set(metrics)
    assert metrics["gaunt/mirror_difference"] < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": ("cross",)}, "products must be among clebsch_gordan, .* got 'cross'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)

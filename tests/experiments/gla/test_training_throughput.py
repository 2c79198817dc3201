"""Shapes, goals and what a measurement says."""

import math

import pytest

from experiments.config_files import ROOT, load
from experiments.gla.training_throughput import MEASURES, Shape, measure
from experiments.language_model.trainers import make_trainer


@pytest.fixture
def config():
    return load(ROOT / "configs" / "gla" / "training_throughput.py").config


@pytest.mark.parametrize("text", ["", "t16", "t0_b4", "t16_b4_", "b4_t16"])
def test_other_shapes_are_refused(text):
    with pytest.raises(ValueError, match="shapes are of the form t2048_b16"):
        Shape.parse(text)


def test_every_shape_has_as_many_tokens_and_a_goal(config):
    """The goals are metrics of a run of all models, and of none without one of the two."""
    runs = config.build().runs
    assert {run.context * run.batch for run in runs} == {32768}
    assert all(run.loss_chunk == run.context and run.layers == 6 for run in runs)
    row = {"tokens_per_second": 6.0, "peak_bytes": 1.0, "loss": 10.0}
    results = {name: {shape: dict(row) for shape in config.shapes} for name in config.variants}
    results["transformer"]["t2048_b16"]["tokens_per_second"] = 8.0
    metrics = config.build().finish(results)
    goals = {goal.metric: goal.status(metrics[goal.metric]) for goal in config.goals()}
    assert len(goals) == 4
    assert goals.pop("t2048_b16/gla_over_transformer") == "short"
    assert set(goals.values()) == {"pass"}
    del results["gla"]
    assert not goals.keys() & config.build().finish(results).keys()


def test_a_measurement(config):
    """Memory holds the state, written in its place, and the logits; words are at random."""
    small = config.smoke()
    run = small.build().runs[0]
    trainer = make_trainer(run, "transformer", small.vocabulary)
    found = measure(trainer, run, small.vocabulary, steps=1, repeats=1)
    assert set(found) == set(MEASURES) - {"mfu"}  # a CPU has no known peak
    state = 12 * trainer.sizes["parameters"]
    logits = 4 * run.batch * run.context * 128
    assert state + logits < found["peak_bytes"] < 2 * state + 40 * logits
    assert found["loss"] == pytest.approx(math.log(128), rel=0.02)
    assert found["tokens_per_second"] > 0

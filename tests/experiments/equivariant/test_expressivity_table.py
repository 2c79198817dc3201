"""The expressivity table: every goal has a metric, closed forms, bad configs."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.config_files import CONFIGS, load
from experiments.equivariant.expressivity import PRODUCTS, closed_form

CONFIG: Any = load(CONFIGS / "equivariant" / "expressivity.py").config


def test_every_goal_has_a_metric_and_is_reached(tmp_path):
    config = dataclasses.replace(CONFIG.smoke(), products=("gaunt", "vector_signal"))
    experiment = config.build()
    results = {}
    for phase in experiment.phases():
        state, scalars = phase.advance(phase.init(), 0, phase.num_steps)
        assert all(np.isfinite(list(scalars.values())))
        results[phase.name] = phase.finish(state)
    metrics = experiment.finish(results)
    for goal in config.goals():
        assert goal.status(metrics[goal.metric]) == "pass"
    experiment.plot(results, metrics, tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 1000


@pytest.mark.parametrize("product", PRODUCTS)
def test_closed_forms_are_consistent(product):
    """Never more degrees of freedom than interactions, nor of these than paths."""
    for setting in ("siso", "simo", "mimo"):
        for lmax in range(1, 5):
            counts = closed_form(product, setting, lmax)
            freedom = counts.get("degrees_of_freedom", 0)
            assert freedom <= counts["interactions"] <= counts["paths"]


def test_wrong_counts_are_noticed():
    phase = CONFIG.build().phases()[1]
    state = phase.init()
    state["counts"][...] = 1
    assert phase.finish(state)["off_by"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": ("cross",)}, "products must be among clebsch_gordan, .* got 'cross'"),
        ({"settings": ("miso",)}, "settings must be among siso, simo, mimo; got 'miso'"),
        ({"degrees": (0,)}, "degrees must be 1 to 4, got 0"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)

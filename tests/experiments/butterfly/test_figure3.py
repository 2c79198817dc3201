"""The heat map reads stored results, counts the cells and draws them."""

import json

import pytest

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.baseline_experiment import BaselineConfig
from experiments.butterfly.recovery.figure3 import ROWS, Figure3Config


def outcome(config):
    """Results and metrics of an experiment of single-step phases, run without the runner."""
    experiment = config.build()
    results = {}
    for phase in experiment.phases():
        state, _ = phase.advance(phase.init(), 0, phase.num_steps)
        results[phase.name] = phase.finish(state)
    return experiment, results, experiment.finish(results)


def test_every_row_of_the_paper_has_configs():
    assert tuple(ROWS) == paper.TRANSFORMS


def test_cells_are_read_compared_and_drawn(tmp_path):
    for name, value in [("recover_dft", 1e-8), ("recover_randn", 1.0)]:
        metrics = {"n0008/float32/rmse": value, "n0016/float64/rmse": 0.0}
        (tmp_path / f"{name}.json").write_text(json.dumps({"metrics": metrics}))
    # of two stored runs of one row, the better one counts
    for name, value in [("recover_convolution@old", 1e-3), ("recover_convolution_1024", 1e-9)]:
        metrics = {"n1024/float32/rmse": value}
        (tmp_path / f"{name}.json").write_text(json.dumps({"metrics": metrics}))
    config = Figure3Config(sizes=(8, 16, 1024), results=str(tmp_path))
    experiment, results, metrics = outcome(config)
    table = results["read"]
    assert table["dft"] == [1e-8, None, None]
    assert table["convolution"] == [None, None, 1e-9]
    assert table["hadamard"] == [None, None, None]
    # the DFT and the convolution are below the paper, the random matrix is not
    assert metrics == {"cells": 3.0, "cells_not_above_paper": 2.0}
    picture = tmp_path / "figure.png"
    experiment.plot(results, metrics, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_nothing_stored_is_no_cell(tmp_path):
    _, _, metrics = outcome(Figure3Config(sizes=(8,), results=str(tmp_path)))
    assert metrics == {"cells": 0.0, "cells_not_above_paper": 0.0}


def test_baselines_have_a_number_for_every_cell():
    config = BaselineConfig(transforms=("dft", "convolution"), sizes=(8, 16), rounds=2)
    _, _, metrics = outcome(config)
    assert len(metrics) == 2 * 2 * 3
    # twice the budget holds a whole convolution of size 8, as published with the figure
    assert metrics["convolution/n0008/sparse"] == 0
    assert metrics["dft/n0008/sparse"] == pytest.approx(0.18, abs=0.005)
    assert metrics["dft/n0008/low_rank"] == pytest.approx(0.28, abs=0.005)

"""The examples in the docstrings of the experiments package run."""

import doctest
import importlib

import pytest

MODULES = [
    "experiments.butterfly.compression.methods",
    "experiments.butterfly.compression.paper",
    "experiments.butterfly.compression.ranking",
    "experiments.butterfly.speed.config",
    "experiments.commands.run",
    "experiments.butterfly.speed.experiment",
    "experiments.butterfly.speed.paper",
    "experiments.data.cifar10",
    "experiments.data.images",
    "experiments.data.mnist",
    "experiments.data.molecules",
    "experiments.equivariant.nbody.simulate",
    "experiments.experiment",
    "experiments.report.entries",
    "experiments.report.render",
    "experiments.runner.distributed",
    "experiments.runner.json_files",
    "experiments.runner.nonfinite",
    "experiments.runner.result",
    "experiments.seeds",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted > 0
    assert tried.failed == 0

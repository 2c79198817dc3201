"""The experiments that measure the project itself."""

import math

import pytest

from experiments.config_files import ROOT
from experiments.errors import CommandError
from experiments.framework import import_time, smoke_presets


def test_import_time_sees_what_is_imported():
    seconds, unneeded = import_time.measure("tyro")
    assert 0 < seconds < 60
    found = [name for name, bad in zip(import_time.UNNEEDED, unneeded, strict=True) if bad]
    assert "tyro" in found
    assert "orbax" not in found


def test_import_of_the_library_is_light():
    _, unneeded = import_time.measure("structlayers")
    assert not any(unneeded)


def test_import_that_fails():
    with pytest.raises(RuntimeError, match="import no_such_module failed"):
        import_time.measure("no_such_module")


def test_import_time_metrics():
    experiment = import_time.ImportTime(("a", "b.c"), 3)
    assert [phase.num_steps for phase in experiment.phases()] == [3, 3]
    metrics = experiment.finish(
        {
            "a": {"seconds": [3.0, 1.0, 2.0], "unneeded": ["flax"]},
            "b.c": {"seconds": [5.0, 5.0, 4.0], "unneeded": ["flax", "rich"]},
        }
    )
    assert metrics == {
        "a.seconds_median": 2.0,
        "a.seconds_min": 1.0,
        "b.c.seconds_median": 5.0,
        "b.c.seconds_min": 4.0,
        "unneeded_modules": 2,
    }


def test_smoke_presets_cover_every_config_but_themselves():
    names = [phase.name for phase in smoke_presets.SmokePresets((), 10.0).phases()]
    configs = {path.stem for path in (ROOT / "configs").glob("*/*.py")}
    assert {name.split("+")[1] for name in names} == configs - {"smoke_presets"}
    with pytest.raises(CommandError, match="'butterfly/no'"):
        smoke_presets.SmokePresets(("butterfly/no",), 10.0).phases()


def test_failed_smoke_run_counts_as_infinite(tmp_path):
    seconds, problem = smoke_presets.smoke_seconds(tmp_path / "none.py", 60.0)
    assert seconds == math.inf
    assert "exit code 2" in problem
    metrics = smoke_presets.SmokePresets((), 1.0).finish(
        {"a+b": {"seconds": 3.0}, "a+c": {"seconds": math.inf}}
    )
    assert metrics == {
        "max_seconds": math.inf,
        "num_failed": 1,
        "num_configs": 2,
        "a/b": 3.0,
        "a/c": math.inf,
    }


def test_slow_smoke_run_counts_as_infinite():
    config = ROOT / "configs" / "framework" / "import_time.py"
    seconds, problem = smoke_presets.smoke_seconds(config, 0.05)
    assert seconds == math.inf
    assert "no end after 0.05 s" in problem

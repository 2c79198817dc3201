"""Every config under configs/: loads, says what it reproduces, and its smoke preset runs."""

import pytest

from experiments.config_files import find_configs, load, relative_path
from experiments.experiment import Experiment, Goal
from experiments.runner.json_files import to_json
from experiments.runner.work_folder import RunIdentity

CONFIGS = find_configs()
IDS = [f"{config.family}/{config.experiment}" for config in CONFIGS]


@pytest.mark.parametrize("file", CONFIGS, ids=IDS)
def test_loads_and_is_documented(file):
    loaded = load(file.path)
    assert len(loaded.doc.splitlines()) >= 4, "paper, expected numbers, hardware, command"
    assert f"run {relative_path(file.path)}" in loaded.doc, "the docstring gives the command"
    config = loaded.config
    goals = config.goals()
    assert all(isinstance(goal, Goal) for goal in goals)
    assert len({goal.metric for goal in goals}) == len(goals)
    smoke = config.smoke()
    assert type(smoke) is type(config)
    assert (smoke.family, smoke.experiment) == (config.family, config.experiment)
    assert to_json(config).keys() == set(RunIdentity.of(config).fields)
    assert isinstance(config.build(), Experiment)


@pytest.mark.parametrize("file", CONFIGS, ids=IDS)
def test_command_line_of_the_full_preset(command, file):
    code, out, err = command("run", file.path, "--help")
    assert code == 0, err
    assert "--workdir" in out


# those of the library's families take minutes together
SMOKE = [
    pytest.param(file, id=name, marks=() if file.family == "framework" else pytest.mark.slow)
    for file, name in zip(CONFIGS, IDS, strict=True)
]


@pytest.mark.parametrize("file", SMOKE)
def test_smoke_preset(start, read, file, tmp_path):
    """Seconds on two cores; the time itself is measured by configs/framework/smoke_presets.py."""
    process = start("run", file.path, "--preset", "smoke", "--workdir", tmp_path / "run")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    result = read(tmp_path / "run" / "result.json")
    assert result["metrics"]
    assert result["preset"] == "smoke"

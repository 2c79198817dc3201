"""The command line of `run`: options, fields, presets, what may be stored, bad configs."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import config_files
from experiments.commands.run import changed, repeat_command
from experiments.errors import CommandError


def test_help_shows_docstring_fields_and_options(command, walk):
    code, out, _ = command("run", walk, "--help")
    assert code == 0
    for text in ("A random walk in two phases", "--num-steps", "Steps of each phase", "--resume"):
        assert text in out


@pytest.mark.parametrize("words", [("run", "{walk}", "--help"), ("--help",)])
def test_nobody_reads_the_output(words, start, walk):
    """As with `| head -0`: an exit code and no traceback."""
    with start(*(word.format(walk=walk) for word in words)) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_usage(command):
    code, out, _ = command("run", "--help")
    assert code == 0
    assert "run CONFIG" in out
    assert command("run")[0] == 2
    code, out, _ = command("--help")
    assert code == 0
    for name in ("list", "run", "report", "bench", "tpu"):
        assert name in out
    code, _, err = command("rum")
    assert code == 2
    assert "did you mean 'run'" in err


def test_typo_gets_a_suggestion(command, walk, tmp_path):
    code, out, err = command("run", walk, "--num-step", 3, "--workdir", tmp_path / "run")
    assert code == 2
    assert "--num-steps" in out + err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/framework/import_tine.py"], "did you mean configs/framework/import_time.py"),
        (["--resume", "x.py"], "CONFIG must come first"),
        (["WALK", "--checkpoint-seconds", "-1"], "--checkpoint-seconds must be >= 0, got -1.0"),
        (["WALK", "--checkpoint-steps", "0"], "--checkpoint-steps must be >= 1, got 0"),
        (["WALK", "--variant", "a/b"], "--variant 'a/b'"),
        (["WALK", "--family", "other"], "--family cannot be changed; it is 'trial'"),
        (["WALK", "--store", "--preset", "smoke"], "not the smoke preset; name it with --variant"),
        (["WALK", "--store", "--num-steps", "3"], "not changed fields (num_steps)"),
    ],
)
def test_bad_arguments(command, walk, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("run", *(walk if word == "WALK" else word for word in arguments))
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_default_folders(command, walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("run", walk, "--preset", "smoke")[0] == 0
    assert (tmp_path / "runs" / "trial" / "walk-smoke" / "result.json").exists()
    assert command("run", walk, "--preset=smoke", "--variant", "v2", "--chunk", 8)[0] == 0
    result = tmp_path / "runs" / "trial" / "walk@v2-smoke" / "result.json"
    assert json.loads(result.read_text())["overrides"] == {"chunk": 8}


def test_store(command, walk, tmp_path, read):
    results = tmp_path / "results"
    short = ["--num-steps", 4, "--variant", "short", "--results-dir", results]
    code, out, err = command("run", walk, *short, "--workdir", tmp_path / "one", "--store")
    assert code == 0, err
    assert "stored as" in out
    stored = read(results / "trial" / "walk@short.json")
    assert stored["variant"] == "short"
    assert stored["overrides"] == {"num_steps": 4}
    assert stored["metrics"] == read(tmp_path / "one" / "result.json")["metrics"]
    assert "--store" not in stored["command"]
    assert "--variant short" in stored["command"]

    assert command("run", walk, "--results-dir", results, "--workdir", tmp_path / "two")[0] == 0
    assert not (results / "trial" / "walk.json").exists()
    again = ("run", walk, "--results-dir", results, "--workdir", tmp_path / "two", "--resume")
    code, out, _ = command(*again, "--store")
    assert code == 0
    assert "already finished" in out
    assert read(results / "trial" / "walk.json")["variant"] is None
    code, out, _ = command(*again, "--store")
    assert "replaces the former one" in out


def test_store_where_nothing_can_be_written(command, walk, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command(
        "run", walk, "--workdir", tmp_path / "run", "--store", "--results-dir", tmp_path / "file"
    )
    assert code == 2
    assert "cannot store the result" in err
    assert (tmp_path / "run" / "result.json").exists()


CONFIG = """
import dataclasses
import numpy as np
import jax.numpy as jnp

class Phase:
    name, num_steps = "only", 2
    def init(self):
        return jnp.zeros(2, {dtype})
    def advance(self, state, step, num):
        return state + jnp.asarray(1 / 3, state.dtype), {{}}
    def finish(self, state):
        return {{"dtype": state.dtype, "x": state[0]}}

class Experiment:
    def phases(self):
        return [Phase()]
    def finish(self, results):
        return {{"x": results["only"]["x"]}}

@dataclasses.dataclass(frozen=True)
class Config:
    family: str = "trial"
    experiment: str = "tiny"
    {fields}
    def build(self):
        return Experiment()
    def goals(self):
        return ()
    def smoke(self):
        return self

def get_config():
    return Config()
"""


@pytest.mark.parametrize(
    ("fields", "wide"),
    [
        ("", False),
        ('dtype: str = "float64"', True),
        ("enable_x64: bool = True", True),
        ('dtype: str = "float64"\n    enable_x64: bool = False', False),
    ],
)
def test_64_bit_mode(start, tmp_path, read, fields, wide):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(fields=fields, dtype="jnp.result_type(float)"))
    process = start("run", path, "--workdir", tmp_path / "run")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "pass" in out
    result = read(tmp_path / "run" / "result.json")
    entry = result["phases"]["only"]["results"]
    assert entry["dtype"] == ("float64" if wide else "float32")
    third = 1 / 3 + 1 / 3
    assert (entry["x"] == third) is wide
    assert result["status"] == "pass"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no function get_config"),
        ("def get_config(): return {}", "returned dict; expected a frozen dataclass"),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass C:\n  family: str = 'a'\n"
            "def get_config(): return C()",
            "must be a frozen dataclass",
        ),
        (
            "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C:\n"
            "  family: str = 'a'\ndef get_config(): return C()",
            "lacks build, goals, smoke, experiment",
        ),
    ],
)
def test_bad_config_files(command, tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    code, _, err = command("run", path)
    assert code == 2
    assert message in err


def test_field_that_is_an_option(command, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(fields="resume: bool = True", dtype="None"))
    code, _, err = command("run", path)
    assert code == 2
    assert "field 'resume'" in err


def test_names_are_those_of_the_path(tmp_path, walk):
    folder = tmp_path / "configs" / "trial"
    folder.mkdir(parents=True)
    shutil.copy(walk, folder / "run.py")
    shutil.copy(walk, folder / "walk.py")
    assert config_files.load(folder / "walk.py", folder.parent).config.experiment == "walk"
    with pytest.raises(CommandError, match="expected the names of its folder and file"):
        config_files.load(folder / "run.py", folder.parent)


def test_changed_fields():
    before = {"lr": 0.1, "sizes": [1, 2], "model": {"width": 4, "depth": 2}}
    after = {"lr": 0.1, "sizes": [1], "model": {"width": 8, "depth": 2}}
    assert changed(before, after) == {"sizes": [1], "model.width": 8}


def test_command_that_repeats_a_run():
    arguments = [
        "--workdir=/x y",
        "--lr",
        "1e-3",
        "--resume",
        "--results_dir",
        "r",
        "--name",
        "a b",
    ]
    expected = "python -m experiments run c.py --lr 1e-3 --name 'a b'"
    assert repeat_command("c.py", arguments) == expected


def test_configs_are_found_without_being_imported(tmp_path):
    folder = tmp_path / "family"
    folder.mkdir()
    (folder / "good.py").write_text('"""One line.\n\nMore."""\nraise SystemExit\n')
    (folder / "bad.py").write_text("def (:\n")
    (folder / "_helper.py").write_text("")
    found = config_files.find_configs(tmp_path)
    assert [(file.experiment, file.summary) for file in found] == [
        ("bad", "(syntax error in line 1)"),
        ("good", "One line."),
    ]
    with pytest.raises(CommandError, match="no folder"):
        config_files.find_configs(Path("/nowhere"))

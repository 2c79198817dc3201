"""The runner's small parts: JSON, metrics log, progress, signals, provenance, phase checks."""

import dataclasses
import enum
import json
import math
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import CommandError
from experiments.runner import provenance
from experiments.runner.json_files import number, read_json, strict, to_json, write_json
from experiments.runner.metrics_log import JsonlWriter, as_scalars, truncate
from experiments.runner.phase_checks import check_phases, chunk_of
from experiments.runner.progress import PlainProgress, Rate, TerminalProgress
from experiments.runner.result import check_metrics, format_number
from experiments.runner.signals import StopSignals
from experiments.runner.work_folder import RunIdentity, differing_fields


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    path: Path = Path("a/b")
    colour: Colour = Colour.RED


def test_to_json():
    value = {
        "inner": Inner(),
        "tuple": (1, (2.5, None, True)),
        "set": frozenset({"b", "a"}),
        "numpy": np.asarray([[1, 2]], np.int8),
        "scalar": np.float32(0.1),
        "flag": np.bool_(True),
        "jax": jnp.asarray([0.5, 1.5]),
        "half": jnp.asarray(1.5, jnp.bfloat16),
        "dtype": np.dtype("float32"),
        "class": jnp.float32,
        7: "key",
    }
    encoded = to_json(value)
    assert json.loads(json.dumps(encoded)) == {
        "inner": {"path": "a/b", "colour": "RED"},
        "tuple": [1, [2.5, None, True]],
        "set": ["a", "b"],
        "numpy": [[1, 2]],
        "scalar": float(np.float32(0.1)),
        "flag": True,
        "jax": [0.5, 1.5],
        "half": 1.5,
        "dtype": "float32",
        "class": "float32",
        "7": "key",
    }
    for bad in (object(), jnp.ones(1, jnp.complex64), 1j):
        with pytest.raises(TypeError):
            to_json({"x": bad})


def test_json_of_what_is_not_finite(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": [math.nan, -math.inf, math.inf, 1.0]})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": ["NaN", "-Infinity", "Infinity", 1.0]
    }
    values = [number(value) for value in read_json(path, "a file")["a"]]
    assert str(values) == "[nan, -inf, inf, 1.0]"
    write_json(path, {"a": math.nan}, allow_nan=True)
    assert math.isnan(read_json(path, "a file")["a"])


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, 2)
    assert json.loads(path.read_text()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_files_are_readable_by_others(tmp_path):
    old = os.umask(0o022)
    try:
        write_json(tmp_path / "file.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o644


def test_metrics_are_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = JsonlWriter(path)
    for phase, steps in (("one", (5, 10)), ("two", (5, 10, 15))):
        for step in steps:
            log.write(phase, step, {"loss": math.nan, "step of": step}, seconds=step / 2)
    log.sync()
    log.close()
    with path.open("a") as file:
        file.write('{"phase": "two", "st')
    seconds = truncate(path, ["one"], "two", 10)
    assert seconds == 7.5
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in kept] == [
        ("one", 5),
        ("one", 10),
        ("two", 5),
        ("two", 10),
    ]
    assert kept[0]["loss"] == "NaN"
    size = path.stat().st_size
    truncate(path, ["one"], "two", 10)
    assert path.stat().st_size == size
    truncate(path, [], "one", 0)
    assert path.stat().st_size == 0
    assert truncate(tmp_path / "absent.jsonl", [], None, 0) == 0.0


def test_damaged_metrics_are_not_thrown_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"phase": "one", "step": 1}\n{"pha\n{"phase": "one", "step": 3}\n')
    before = path.read_bytes()
    with pytest.raises(CommandError, match=r"metrics\.jsonl: line 2 is no JSON object"):
        truncate(path, ["one"], None, 0)
    assert path.read_bytes() == before
    truncate(path, [], "one", 2)  # what follows would be written again anyway
    assert path.read_text() == '{"phase": "one", "step": 1}\n'


def test_scalars():
    logged = {
        "int": np.int64(3),
        "jax": jnp.float32(0.5),
        "half": jnp.asarray(2, jnp.bfloat16),
        "float": 1.0,
    }
    plain = as_scalars("phase", logged)
    assert plain == {"int": 3, "jax": 0.5, "half": 2.0, "float": 1.0}
    assert all(type(value) in (int, float) for value in plain.values())
    for bad in (np.ones(1), "text", 1j, None):
        with pytest.raises(TypeError, match="phase p: logged 'x'"):
            as_scalars("p", {"x": bad})


def test_metrics_of_an_experiment():
    assert check_metrics({"a": np.float32(0.5), "b": True}) == {"a": 0.5, "b": 1}
    with pytest.raises(TypeError, match="metric 'a' must be a real number, got list"):
        check_metrics({"a": [1, 2]})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "-"),
        (3, "", "3"),
        (1 / 3, "s", "0.333 s"),
        (1.2345e-9, "", "1.23e-09"),
        ("NaN", "", "nan"),
    ],
)
def test_format_number(value, unit, text):
    assert format_number(value, unit) == text


def test_rate():
    rate = Rate()
    assert rate.text(0, 100) == ""
    rate.add(10, now=50.0)
    assert rate.text(10, 100) == ""
    rate.add(30, now=52.0)
    assert rate.text(30, 730) == "10 steps/s, 0:01:10 left"


def test_plain_progress(capsys):
    display = PlainProgress(every=0.0)
    display.start("fit", 10, 100, "1/2")
    display.update(20, {"loss": 0.125})
    display.update(30, {"loss": 0.0625})
    display.finish()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/2] fit: 100 steps from step 10"
    assert lines[1] == "[1/2] fit: step 20/100, loss 0.125"
    assert lines[2].startswith("[1/2] fit: step 30/100, ")
    assert "steps/s" in lines[2]
    assert "left" in lines[2]
    assert lines[3].startswith("[1/2] fit: done in ")
    quiet = PlainProgress()
    quiet.start("fit", 0, 100, "1/2")
    quiet.update(20, {})
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_terminal_progress(capsys):
    from rich.console import Console

    console = Console(force_terminal=True, width=120)
    display = TerminalProgress(console)
    display.start("fit", 0, 100, "1/2")
    display.update(50, {"loss": 0.125})
    display.update(100, {"loss": 0.0625})
    display.finish()
    display.note("[1] a note")
    display.close()
    out = capsys.readouterr().out
    for text in ("1/2 fit", "100/100", "loss 0.0625", "[1] a note"):
        assert text in out


def test_stop_signals():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("STRUCTLAYERS_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit(tmp_path) == "unknown"
    monkeypatch.setenv("STRUCTLAYERS_COMMIT", "abc")
    assert provenance.commit(tmp_path) == "abc"
    monkeypatch.delenv("STRUCTLAYERS_COMMIT")

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "structlayers").mkdir()
    (tmp_path / "structlayers" / "a.py").write_text("x = 1")
    git("add", ".")
    git("commit", "-m", "one")
    head = provenance.commit(tmp_path)
    assert len(head) == 40
    (tmp_path / "experiments" / "results").mkdir(parents=True)
    (tmp_path / "experiments" / "results" / "a.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "structlayers" / "b.py").write_text("x = 2")
    assert provenance.commit(tmp_path) == head + "+dirty"
    assert provenance.commit(tmp_path / "structlayers") == "unknown"


def test_versions_and_device():
    versions = provenance.versions()
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == np.__version__
    assert versions["structlayers"][0].isdigit()
    assert provenance.device()["count"] == len(jax.devices())
    assert "CPU (" in provenance.device()["kind"] or jax.devices()[0].platform != "cpu"


def test_differing_fields():
    there = {"a": 1, "b": {"c": 2, "d": 3}, "old": 0}
    here = {"a": 1, "b": {"c": 4, "d": 3}, "new": [1]}
    assert differing_fields(there, here) == [
        "b.c is 2 there, 4 here",
        "old is 0 there, absent here",
        "new is absent there, [1] here",
    ]


def test_identity():
    @dataclasses.dataclass(frozen=True)
    class Config:
        family: str = "f"
        experiment: str = "e"
        sizes: tuple[int, ...] = (1, 2)
        rate: float = 0.1

    one, two = RunIdentity.of(Config()), RunIdentity.of(Config(rate=0.2))
    assert one.fields["sizes"] == [1, 2]
    assert one.fingerprint == RunIdentity.of(Config()).fingerprint
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "no phases"),
        ([("a", 1), ("a", 2)], "'a' is repeated"),
        ([("a/b", 1)], "phase name 'a/b'"),
        ([("..", 1)], "phase name '..'"),
        ([("", 1)], "phase name ''"),
        ([("a", 0)], "phase a: num_steps must be >= 1, got 0"),
    ],
)
def test_bad_phases(phases, message):
    with pytest.raises(ValueError, match=message):
        check_phases([SimpleNamespace(name=name, num_steps=num) for name, num in phases])


@pytest.mark.parametrize(("steps", "chunk"), [(1, 1), (49, 1), (1000, 20), (10**6, 1000)])
def test_default_chunk(steps, chunk):
    assert chunk_of(SimpleNamespace(name="a", num_steps=steps)) == chunk
    assert chunk_of(SimpleNamespace(name="a", num_steps=steps, chunk=7)) == 7
    with pytest.raises(ValueError, match="phase a: chunk must be an integer >= 1, got 0"):
        chunk_of(SimpleNamespace(name="a", num_steps=steps, chunk=0))


def test_damaged_json_names_the_file(tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(CommandError, match=r"file\.json: No such file.*expected a thing"):
        read_json(path, "a thing")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match=r"file\.json is not valid JSON.*expected a thing"):
        read_json(path, "a thing")
    assert strict({"a": [math.inf]}) == {"a": ["Infinity"]}

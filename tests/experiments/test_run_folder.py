"""What a work folder may hold: everything else is refused by name, and left as it was."""

import json
import shutil
import time
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.runner.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    """A finished run of 8 steps a phase."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    walk = Path(__file__).parent / "trial_configs" / "trial" / "walk.py"
    assert main(["run", str(walk), "--num-steps", "8", "--workdir", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(finished_once, tmp_path / "run")


def refused(command, snapshot, folder, *arguments):
    """Runs, expects exit code 2 and an untouched folder; returns the message."""
    before = snapshot(folder)
    code, _, err = command(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert snapshot(folder) == before
    return err


def test_files_of_a_finished_run(finished, read):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "result.json", "plot.png", "checkpoints"}
    assert not [name for name in names if name.endswith(".tmp")]
    result = read(finished / "result.json")
    assert result["config"]["num_steps"] == 8
    assert result["overrides"] == {"num_steps": 8}
    assert result["preset"] == "full"
    assert result["metrics"]["count"] == 16
    assert result["metrics"]["undefined"] == "NaN"
    assert result["steps"] == 16
    assert [goal["status"] for goal in result["goals"]] == ["pass", "short", "pass"]
    assert result["goals"][0]["paper"] == 3.5
    assert result["goals"][0]["value"] == result["metrics"]["distance"]
    assert result["status"] == "short"
    assert set(result["versions"]) >= {"python", "jax", "jaxlib", "flax", "optax", "structlayers"}
    assert result["device"]["platform"] == "cpu"
    assert result["device"]["count"] == 8
    assert "--workdir" not in result["command"]
    assert "--num-steps 8" in result["command"]
    lines = read(finished / "metrics.jsonl")
    assert [(line["phase"], line["step"]) for line in lines] == [
        ("first", 4),
        ("first", 8),
        ("second", 4),
        ("second", 8),
    ]


def test_finished_run_is_not_repeated(command, snapshot, walk, finished):
    arguments = ("run", walk, "--num-steps", 8, "--workdir", finished)
    err = refused(command, snapshot, finished, *arguments)
    assert str(finished) in err
    assert "finished run" in err
    assert "--resume" in err
    before = snapshot(finished)
    code, out, _ = command(*arguments, "--resume")
    assert code == 0
    assert "already finished" in out
    assert "distance" in out
    assert snapshot(finished) == before


def test_missing_picture_is_drawn_again(command, walk, finished):
    picture = (finished / "plot.png").read_bytes()
    (finished / "plot.png").unlink()
    code, _, _ = command("run", walk, "--num-steps", 8, "--workdir", finished, "--resume")
    assert code == 0
    assert (finished / "plot.png").read_bytes() == picture


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_other_config(command, snapshot, walk, finished, resume):
    err = refused(
        command, snapshot, finished, "run", walk, "--num-steps", 12, "--workdir", finished, *resume
    )
    assert "another config" in err
    assert "num_steps is 8 there, 12 here" in err


def test_unfinished_run_wants_resume(command, snapshot, walk, finished):
    (finished / "result.json").unlink()
    arguments = ("run", walk, "--num-steps", 8, "--workdir", finished)
    err = refused(command, snapshot, finished, *arguments)
    assert "unfinished run" in err
    assert "--resume" in err
    code, _, _ = command(*arguments, "--resume")
    assert code == 0
    assert (finished / "result.json").exists()


@pytest.mark.parametrize("name", ["config.json", "progress.json", "result.json"])
def test_damaged_file(command, snapshot, walk, finished, name):
    path = finished / name
    path.write_text(path.read_text()[:37])
    err = refused(
        command,
        snapshot,
        finished,
        "run",
        walk,
        "--num-steps",
        8,
        "--workdir",
        finished,
        "--resume",
    )
    assert str(path) in err
    assert "not valid JSON" in err


@pytest.mark.parametrize(("name", "text"), [("config.json", "[1]"), ("progress.json", "{}")])
def test_file_of_another_kind(command, snapshot, walk, finished, name, text):
    (finished / "result.json").unlink()
    (finished / name).write_text(text)
    err = refused(
        command,
        snapshot,
        finished,
        "run",
        walk,
        "--num-steps",
        8,
        "--workdir",
        finished,
        "--resume",
    )
    assert str(finished / name) in err
    assert "lacks" in err


def test_missing_progress(command, snapshot, walk, finished):
    (finished / "result.json").unlink()
    (finished / "progress.json").unlink()
    err = refused(
        command,
        snapshot,
        finished,
        "run",
        walk,
        "--num-steps",
        8,
        "--workdir",
        finished,
        "--resume",
    )
    assert "progress.json is missing" in err


def test_progress_of_another_config(command, snapshot, walk, finished, read):
    (finished / "result.json").unlink()
    progress = read(finished / "progress.json")
    (finished / "progress.json").write_text(json.dumps({**progress, "fingerprint": "00"}))
    err = refused(
        command,
        snapshot,
        finished,
        "run",
        walk,
        "--num-steps",
        8,
        "--workdir",
        finished,
        "--resume",
    )
    assert "another config" in err


def test_folder_of_something_else(command, snapshot, walk, tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear reader")
    err = refused(command, snapshot, folder, "run", walk, "--workdir", folder, "--resume")
    assert "letter.txt" in err
    assert str(folder) in err
    assert not (folder / "lock").exists()


@pytest.mark.parametrize("place", ["file", "below", "proc"])
def test_unwritable(command, walk, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    folder = {
        "file": tmp_path / "file",
        "below": tmp_path / "file" / "run",
        "proc": Path("/proc/no/run"),
    }[place]
    code, _, err = command("run", walk, "--workdir", folder)
    assert code == 2
    assert f"cannot use work folder {folder}" in err
    assert (tmp_path / "file").read_text() == "in the way"


def test_checkpoint_of_another_config(command, snapshot, walk, finished, tmp_path):
    other = tmp_path / "other"
    code, _, _ = command("run", walk, "--num-steps", 8, "--delay", 0.001, "--workdir", other)
    assert code == 0
    interrupt(finished, "first")
    shutil.rmtree(finished / "checkpoints" / "first")
    shutil.copytree(other / "checkpoints" / "first", finished / "checkpoints" / "first")
    arguments = ("run", walk, "--num-steps", 8, "--workdir", finished, "--resume")
    before = snapshot(finished / "checkpoints")
    code, _, err = command(*arguments)
    assert code == 2
    assert "of another config" in err
    assert "00000008" in err
    assert snapshot(finished / "checkpoints") == before


def test_damaged_checkpoint(command, walk, finished):
    interrupt(finished, "first")
    for path in (finished / "checkpoints" / "first" / "00000008" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    code, _, err = command("run", walk, "--num-steps", 8, "--workdir", finished, "--resume")
    assert code == 2
    assert "cannot be read" in err
    assert "00000008" in err


def test_resume_of_nothing_starts(command, walk, tmp_path):
    code, _, _ = command("run", walk, "--num-steps", 4, "--workdir", tmp_path / "new", "--resume")
    assert code == 0


def test_two_processes_do_not_share_a_folder(start, command, walk, tmp_path):
    folder = tmp_path / "run"
    process = start("run", walk, "--delay", 20, "--workdir", folder)
    deadline = time.monotonic() + 60
    while not (folder / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    code, _, err = command("run", walk, "--delay", 20, "--workdir", folder, "--resume")
    process.kill()
    process.communicate()
    assert code == 2
    assert f"in use by process {process.pid}" in err


def test_failed_save_keeps_older_checkpoints(command, walk, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save = Checkpoints.save

    def fill(self, phase, step, state, record):
        if step > 4:
            raise OSError(28, "No space left on device")
        return save(self, phase, step, state, record)

    monkeypatch.setattr(Checkpoints, "save", fill)
    arguments = ("run", walk, "--num-steps", 16, "--checkpoint-steps", 4, "--workdir", folder)
    code, _, err = command(*arguments)
    assert code == 1
    assert "cannot save checkpoint" in err
    assert "00000008" in err
    assert "No space left" in err
    monkeypatch.setattr(Checkpoints, "save", save)
    code, out, _ = command(*arguments, "--resume")
    assert code == 0
    assert "16 steps from step 4" in out


def test_failed_picture_costs_no_numbers(command, walk, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = command("run", walk, "--num-steps", 4, "--bad-plot", "--workdir", folder)
    assert code == 0
    assert "no ink" in out
    assert (folder / "result.json").exists()
    assert not (folder / "plot.png").exists()


def interrupt(folder: Path, phase: str) -> None:
    """Makes a finished run look as if it had been stopped before `phase` was finished."""
    (folder / "result.json").unlink()
    progress = json.loads((folder / "progress.json").read_text())
    names = list(progress["finished"])
    for name in names[names.index(phase) :]:
        del progress["finished"][name]
    (folder / "progress.json").write_text(json.dumps(progress))

"""A run that is killed at any moment and resumed gives the numbers of an undisturbed one."""

import random
import signal
import time
from pathlib import Path

import pytest


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process, path: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while lines_in(path) < number and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.002)


def comparable(read, folder: Path) -> tuple:
    result = read(folder / "result.json")
    phases = {name: entry["results"] for name, entry in result["phases"].items()}
    lines = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read(folder / "metrics.jsonl")
    ]
    return result["metrics"], phases, result["steps"], lines


def test_killed_at_random_moments(start, walk, read, tmp_path):
    fields = ["--num-steps", 120, "--delay", 0.02, "--checkpoint-steps", 8]
    process = start("run", walk, *fields, "--workdir", "whole")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "pass" in out or "short" in out

    chance = random.Random(20261122)
    folder = tmp_path / "broken"
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    seen = 0
    for signum in signals:
        process = start("run", walk, *fields, "--workdir", folder, "--resume")
        before = lines_in(folder / "metrics.jsonl")
        wait_for_lines(process, folder / "metrics.jsonl", max(seen, before) + chance.randint(1, 12))
        time.sleep(chance.uniform(0, 0.1))
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
        if signum == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            seen = 0
        else:
            assert process.returncode == 128 + signum
            assert f"{signum.name}: saved " in err
            assert "--resume" in err
            assert "Traceback" not in err
            saved = read(folder / "metrics.jsonl")[-1]
            path = folder / "checkpoints" / saved["phase"] / f"{saved['step']:08d}"
            assert path.is_dir(), "nothing that was done may be lost on SIGTERM and SIGINT"
            seen = lines_in(folder / "metrics.jsonl")
        assert not (folder / "result.json").exists()
    process = start("run", walk, *fields, "--workdir", folder, "--resume")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err

    assert comparable(read, folder) == comparable(read, tmp_path / "whole")
    result = read(folder / "result.json")
    assert result["starts"] == len(signals) + 1
    assert 0 < result["seconds"]["compute"] < result["seconds"]["total"]
    assert (folder / "plot.png").read_bytes() == (tmp_path / "whole" / "plot.png").read_bytes()
    for phase in ("first", "second"):
        kept = [path.name for path in (folder / "checkpoints" / phase).iterdir()]
        assert kept == ["00000120"]


def test_killed_while_saving(start, walk, read, tmp_path):
    """SIGKILL in the middle of Orbax's write: the half-made checkpoint is not taken for one."""
    folder = tmp_path / "run"
    fields = ["--num-steps", 20, "--chunk", 1, "--checkpoint-seconds", 0]
    process = start("run", walk, *fields, "--workdir", folder)
    deadline = time.monotonic() + 60
    caught = False
    while not caught and process.poll() is None and time.monotonic() < deadline:
        caught = any(folder.glob("checkpoints/*/*.orbax-checkpoint-tmp*"))
    process.kill()
    process.communicate(timeout=60)
    assert caught, "the run ended before a save was seen"
    process = start("run", walk, *fields, "--workdir", folder, "--resume")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert read(folder / "result.json")["metrics"]["count"] == 40
    assert not list(folder.glob("checkpoints/*/*.orbax-checkpoint-tmp*"))
    steps = [line["step"] for line in read(folder / "metrics.jsonl")]
    assert steps == [*range(1, 21), *range(1, 21)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(start, walk, tmp_path, signum):
    process = start("run", walk, "--delay", 30, "--workdir", "run")
    deadline = time.monotonic() + 60
    progress = tmp_path / "run" / "progress.json"
    while not progress.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(1.0)  # now it sleeps in advance
    process.send_signal(signum)
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == -signum
    assert time.monotonic() - begun < 15

"""Fixtures for the tests of the experiments package: its commands, here and in other processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main

TRIAL_CONFIGS = Path(__file__).parent / "trial_configs"
ROOT = Path(__file__).parents[2]


def child_environment(**extra: str) -> dict[str, str]:
    """Environment of a child process: one CPU device, this checkout on the path."""
    kept = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **extra}


@pytest.fixture
def walk() -> str:
    """Config file of the tests' experiment."""
    return str(TRIAL_CONFIGS / "trial" / "walk.py")


@pytest.fixture
def mesh() -> str:
    """Config file of an experiment whose state is spread over all devices."""
    return str(TRIAL_CONFIGS / "trial" / "mesh.py")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `python -m experiments ...` in this process: exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m experiments ...` in a process of its own, in `tmp_path`."""

    def call(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments", *map(str, arguments)],
            cwd=tmp_path,
            env=child_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return call


@pytest.fixture
def read() -> Callable[[Path], Any]:
    """Reads a JSON file, or the lines of a JSONL file."""

    def call(path: Path) -> Any:
        text = path.read_text()
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text)

    return call


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Contents of all files in a folder but the lock, to show that nothing was changed."""

    def call(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path): path.read_bytes() for path in files if path.name != "lock"}

    return call

"""metrics.jsonl: one JSON line per call of `advance`, cut back to the checkpoint on resume."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.errors import CommandError
from experiments.runner.json_files import strict, to_json


class MetricsWriter(Protocol):
    """What the runner asks of a metrics log; other backends can stand beside the JSONL one."""

    def write(self, phase: str, step: int, scalars: Mapping[str, float]) -> None:
        """Logs the scalars of one phase at one step."""
        ...

    def close(self) -> None:
        """Flushes and closes."""
        ...


class JsonlWriter:
    """Appends {"phase", "step", "seconds", ...scalars} lines; each is flushed at once."""

    def __init__(self, path: Path) -> None:
        """Opens the file for appending.

        Args:
            path: metrics.jsonl.
        """
        self._file = path.open("a", encoding="utf-8")

    def write(
        self, phase: str, step: int, scalars: Mapping[str, float], seconds: float = 0.0
    ) -> None:
        """Writes one line.

        Args:
            phase: name of the phase.
            step: steps done in it.
            scalars: numbers to log.
            seconds: wall seconds since the run began, over all its resumes.
        """
        line = {"phase": phase, "step": step, "seconds": round(seconds, 3), **scalars}
        self._file.write(json.dumps(strict(to_json(line)), allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Forces what was written onto the disk, before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def as_scalars(phase: str, scalars: Mapping[str, Any]) -> dict[str, float]:
    """Logged values as plain numbers.

    Raises:
        TypeError: one is no real scalar; the message names it.
    """
    plain: dict[str, float] = {}
    for name, value in scalars.items():
        array = np.asarray(value)
        if array.ndim or array.dtype.kind in "cOSU":
            raise TypeError(
                f"phase {phase}: logged {name!r} must be a real scalar, got "
                f"{array.dtype} of shape {array.shape}"
            )
        plain[name] = int(array) if array.dtype.kind in "iu" else float(array)
    return plain


def truncate(path: Path, finished: Sequence[str], phase: str | None, step: int) -> float:
    """Drops the lines that a resumed run will write again, and a last line that was cut off.

    Kept are the lines of finished phases and those of `phase` up to `step`.

    Args:
        path: metrics.jsonl; need not exist.
        finished: names of the finished phases.
        phase: the phase that continues, or None.
        step: its step in the checkpoint.

    Returns:
        The largest "seconds" seen, also in dropped lines: how long the run had taken so far.

    Raises:
        CommandError: a line before those to be kept is damaged.
    """
    if not path.exists():
        return 0.0
    done = set(finished)
    keep, seconds, dropping, damaged = 0, 0.0, False, 0
    with path.open("rb") as file:
        for index, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                name, at = entry["phase"], entry["step"]
            except (ValueError, KeyError, TypeError):
                damaged = damaged or index
                continue
            seconds = max(seconds, float(entry.get("seconds", 0.0)))
            dropping = dropping or not (name in done or (name == phase and at <= step))
            if dropping or not line.endswith(b"\n"):
                continue
            if damaged:
                raise CommandError(
                    f"{path}: line {damaged} is no JSON object with phase and step, but later "
                    "lines are; expected only the last line to be cut off. Nothing was changed"
                )
            keep += len(line)
    if keep < path.stat().st_size:
        os.truncate(path, keep)
    return seconds

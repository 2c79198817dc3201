"""Turns at the device: processes that measure do so one after the other.

Making tables, tracing and compiling take most of a benchmark's time and nothing of a device, so
parts of a benchmark are run side by side; while one of them measures, the others wait with theirs.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def turn_file() -> Path:
    """The lock: `$STRUCTLAYERS_TURNS`, or ~/.cache/structlayers/turns.lock."""
    named = os.environ.get("STRUCTLAYERS_TURNS")
    return Path(named or Path.home() / ".cache" / "structlayers" / "turns.lock")


@contextmanager
def device_turn() -> Generator[None]:
    """Waits until no other process of this machine measures, and measures.

    A turn within a turn is the same turn.
    """
    file = turn_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, is_singleton=True):
        yield

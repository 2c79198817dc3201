"""Turns at the device: processes that measure do so one after the other.

Making tables, tracing and compiling take most of a benchmark's time and nothing of a device, so
parts of a benchmark are run side by side; while one of them measures, the others wait with theirs.
"""

from collections.abc import Generator
from contextlib import contextmanager

from filelock import FileLock

from experiments.data.files import cache_folder


@contextmanager
def device_turn() -> Generator[None]:
    """Waits until no other process of this machine with this `cache_folder()` measures.

    A turn within a turn is the same turn.
    """
    file = cache_folder() / "turns.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file, is_singleton=True):
        yield

"""SIGTERM and SIGINT as requests: the run saves first, then stops."""

import os
import signal
from types import FrameType, TracebackType
from typing import Self


class StopSignals:
    """Context in which the first SIGTERM or SIGINT is noted, and a second one ends at once.

    Attributes:
        received: number of the first signal, or None.
    """

    def __init__(self) -> None:
        """Installs nothing yet."""
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Installs the handlers (main thread only)."""
        self.install()
        return self

    def install(self) -> None:
        """Installs the handlers, again if a library has replaced them meanwhile."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            previous = signal.signal(signum, self._note)
            self._previous.setdefault(signum, previous)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Puts the former handlers back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # pyrefly: ignore
        self._previous.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.received = signum
        # os.write, since print is not safe to re-enter from a handler
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: saving after this chunk, then stopping (again: now)\n".encode())

"""Progress on the screen: a rich bar on a terminal, a plain line every 10 seconds elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

PLAIN_SECONDS = 10.0
MAX_SCALARS = 4


class ProgressDisplay(Protocol):
    """What the runner tells a display."""

    def start(self, phase: str, step: int, num_steps: int, place: str) -> None:
        """A phase begins, or continues at `step`; `place` is e.g. "2/8"."""
        ...

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """The phase has done `step` steps; these are its latest scalars."""
        ...

    def finish(self) -> None:
        """The phase is done."""
        ...

    def note(self, text: str) -> None:
        """One line to keep."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


@dataclass
class Rate:
    """Steps per second since the first update, which bears the compilation.

    Attributes:
        times: (seconds, step) of recent updates.
    """

    times: list[tuple[float, int]] = field(default_factory=list)

    def add(self, step: int, now: float) -> None:
        """Notes that `step` was reached at `now`."""
        self.times = [*self.times[-30:], (now, step)]

    def per_second(self) -> float | None:
        """Steps a second over the latest updates; None before there are two."""
        (start, first), (end, last) = self.times[0], self.times[-1]
        return (last - first) / (end - start) if last > first and end > start else None

    def text(self, step: int, num_steps: int) -> str:
        """E.g. "118 steps/s, 0:00:14 left"; empty before there are two updates."""
        rate = self.per_second() if self.times else None
        if rate is None:
            return ""
        left = round((num_steps - step) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return f"{rate:.3g} steps/s, {clock} left"


def scalars_text(scalars: Mapping[str, float]) -> str:
    """The first few scalars, e.g. "loss 0.0123, rmse 4.5e-05"."""
    shown = [f"{name} {value:.3g}" for name, value in scalars.items()]
    return ", ".join(shown[:MAX_SCALARS])


class PlainProgress:
    """Lines for logs and pipes."""

    def __init__(self, every: float = PLAIN_SECONDS) -> None:
        """Prints at most one line in `every` seconds while a phase runs."""
        self._every = every

    def start(self, phase: str, step: int, num_steps: int, place: str) -> None:
        """Prints which phase begins."""
        self._phase, self._num_steps, self._place = phase, num_steps, place
        self._begun = self._printed = time.monotonic()
        self._rate = Rate()
        at = f" from step {step}" if step else ""
        print(f"[{place}] {phase}: {num_steps} steps{at}", flush=True)

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints step, rate, time left and scalars, if the last line is old enough."""
        now = time.monotonic()
        self._rate.add(step, now)
        if now - self._printed >= self._every:
            self._printed = now
            parts = [
                f"step {step}/{self._num_steps}",
                self._rate.text(step, self._num_steps),
                scalars_text(scalars),
            ]
            line = ", ".join(part for part in parts if part)
            print(f"[{self._place}] {self._phase}: {line}", flush=True)
        self._scalars = scalars

    def finish(self) -> None:
        """Prints how long the phase took, and its last scalars."""
        seconds = time.monotonic() - self._begun
        last = scalars_text(getattr(self, "_scalars", {}))
        text = f"done in {seconds:.1f} s" + (f", {last}" if last else "")
        print(f"[{self._place}] {self._phase}: {text}", flush=True)

    def note(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def close(self) -> None:
        """Does nothing."""


class TerminalProgress:
    """One bar for each phase; finished phases stay on the screen."""

    def __init__(self, console: Console) -> None:
        """Draws on a terminal.

        Args:
            console: rich console on standard output.
        """
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._progress.start()

    def start(self, phase: str, step: int, num_steps: int, place: str) -> None:
        """Adds the phase's bar."""
        self._num_steps = num_steps
        self._rate, self._last = Rate(), ""
        self._task = self._progress.add_task(
            f"{place} {phase}", total=num_steps, completed=step, text="compiling"
        )

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """Moves the bar."""
        assert self._task is not None
        self._rate.add(step, time.monotonic())
        self._last = scalars_text(scalars)
        rate = self._rate.text(step, self._num_steps)
        text = ", ".join(part for part in (rate, self._last) if part)
        self._progress.update(self._task, completed=step, text=text)

    def finish(self) -> None:
        """Leaves the bar with its time and last scalars."""
        assert self._task is not None
        self._progress.update(self._task, text=self._last)
        self._progress.stop_task(self._task)

    def note(self, text: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Takes the last picture of the bars."""
        self._progress.stop()


class SilentProgress:
    """For the processes that do not speak."""

    def start(self, phase: str, step: int, num_steps: int, place: str) -> None:
        """Does nothing."""

    def update(self, step: int, scalars: Mapping[str, float]) -> None:
        """Does nothing."""

    def finish(self) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def make_progress(*, speaks: bool) -> ProgressDisplay:
    """The display that fits standard output.

    Args:
        speaks: False for all processes but the first.
    """
    if not speaks:
        return SilentProgress()
    console = Console()
    return TerminalProgress(console) if console.is_terminal else PlainProgress()

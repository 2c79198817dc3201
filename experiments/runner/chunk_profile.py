"""`run --profile`: a trace of one chunk of every phase, and where a GPU's time went in it."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from experiments.device_trace import Kernel, device_kernels
from experiments.runner.progress import ProgressDisplay

_LISTED = 40


class ChunkProfile:
    """Traces the second chunk that a phase advances, when all is compiled."""

    def __init__(self, folder: Path | None, display: ProgressDisplay):
        """Prepares.

        Args:
            folder: for traces and tables, a folder for each phase; None for no profile.
            display: where the table's first lines are shown.
        """
        self.folder, self.display, self.seen = folder, display, 0

    def start(self) -> None:
        """A phase begins."""
        self.seen = 0

    @contextlib.contextmanager
    def chunk(self, phase: str) -> Iterator[list[Any]]:
        """Around the advance of a chunk; what it appends to the list is waited for."""
        results: list[Any] = []
        self.seen += 1
        if self.folder is None or self.seen != 2:
            yield results
            return
        folder = self.folder / phase
        with jax.profiler.trace(str(folder)):
            yield results
            jax.block_until_ready(results)
        self.report(phase, folder)

    def report(self, phase: str, folder: Path) -> None:
        """Writes the table of the newest trace in a folder."""
        files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
        kernels = device_kernels(ProfileData.from_file(str(files[-1]))) if files else []
        if not kernels:
            self.display.note(f"profile of {phase}: {folder} (no kernels of a GPU in it)")
            return
        lines = kernel_table(kernels)
        (folder / "kernels.txt").write_text("\n".join(lines) + "\n")
        self.display.note(f"profile of {phase}: {folder}; {lines[0]}")


def kernel_table(kernels: Sequence[Kernel]) -> list[str]:
    """A summary, then the kernels that took most, added up by name.

    Args:
        kernels: in order of start.

    Returns:
        Lines: kernels, busy and whole milliseconds, median gap; then share, milliseconds, calls
        and name of each.

    Example:
        >>> kernel_table([(0, 3000, "a"), (4000, 1000, "b"), (6000, 3000, "a")])[0]
        '3 kernels, busy 0.007 of 0.009 ms, median gap 1.0 us'
    """
    busy, gaps, end = 0, [], kernels[0][0]
    totals: dict[str, list[int]] = {}
    for start, duration, name in kernels:
        gaps.append(max(start - end, 0))
        busy += max(start + duration - max(start, end), 0)
        end = max(end, start + duration)
        total = totals.setdefault(name, [0, 0])
        total[0] += duration
        total[1] += 1
    whole = end - kernels[0][0]
    median = statistics.median_high(gaps[1:] or [0])
    lines = [
        f"{len(kernels)} kernels, busy {busy / 1e6:.3f} of {whole / 1e6:.3f} ms, "
        f"median gap {median / 1e3:.1f} us"
    ]
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    for name, (duration, count) in ranked[:_LISTED]:
        lines.append(f"{duration / busy:6.1%} {duration / 1e6:9.3f} ms {count:7d} x {name}")
    return lines

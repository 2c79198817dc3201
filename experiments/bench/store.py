"""Rows of a benchmark, and the JSON file that keeps them."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from experiments.errors import CommandError
from experiments.runner.json_files import read_json, to_json, write_json

# A new row takes the place of one that agrees with it in all of these.
KEY = ("op", "spec", "implementation", "kind", "mode", "precision", "timer", "device")


@dataclasses.dataclass(frozen=True)
class Row:
    """One implementation or rival at one spec; times in seconds, sizes in bytes.

    Attributes:
        op: public name of the op.
        spec: name of the shapes.
        implementation: name of the implementation or rival.
        kind: "implementation" or "rival".
        chosen: whether the op chooses this implementation by itself here.
        note: what a rival is; empty for implementations.
        mode: "forward" or "forward_backward".
        dtype: of the first floating-point input.
        precision: of float32 products ("highest", "high", "default"); "native" in other dtypes.
        unit: ceiling that divides the operations, or None.
        bytes: fewest bytes of the job.
        operations: operations of the best known algorithm.
        floor_seconds: the larger of bytes and operations over their ceilings.
        bound: which of the two it is: "bytes" or "operations".
        seconds_median: median device time of one call; None if it failed or was too short to tell.
        spread: min, p10, p90, max and number of the samples.
        share: floor over median.
        compile_seconds: tracing, lowering and compiling; None for torch.
        peak_bytes: arguments, results and temporaries of one call.
        error: largest error ratio against the float64 reference; None where not compared.
        error_scope: what was compared, or why not.
        program: digest of the compiled program, equal where times differ by chance alone; None
            for torch and for what failed.
        timer: "loop", "profiler", "graph" or "clock".
        calls: calls in one sample.
        sets: input sets that were gone through in turn.
        cache: "cold" or "warm".
        overhead_seconds: what the harness added to a call and was taken off.
        launched_seconds: one call of a burst launched by the host; bounds the median from above.
        failure: message of the error that ended the measurement; empty if none did.
        device: platform, kind and count.
        versions: of Python, JAX, the library and others.
        commit: of the checkout.
        date: when the row was measured, UTC.
        command: command line of the run.
        ceilings: bytes/s of a copy, operations/s of matmuls, measured in the same run.
    """

    op: str
    spec: str
    implementation: str
    kind: str
    chosen: bool
    note: str
    mode: str
    dtype: str
    precision: str
    unit: str | None
    bytes: int
    operations: int
    floor_seconds: float
    bound: str
    seconds_median: float | None
    spread: dict[str, float] | None
    share: float | None
    compile_seconds: float | None
    peak_bytes: int | None
    error: float | None
    error_scope: str
    program: str | None
    timer: str
    calls: int
    sets: int
    cache: str
    overhead_seconds: float
    launched_seconds: float | None
    failure: str
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str
    date: str
    command: str
    ceilings: dict[str, float]


class RowFile:
    """A JSON list of rows that grows while a run goes on; what it held before is kept."""

    def __init__(self, path: Path) -> None:
        """Reads the rows that are there, and checks that more can be written.

        Args:
            path: the file; need not exist.

        Raises:
            CommandError: it holds something else, or cannot be written.
        """
        self.path = path
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            rows = read_json(path, "a list of benchmark rows")
            if not isinstance(rows, list) or not all(
                isinstance(row, dict) and set(KEY) <= row.keys() for row in rows
            ):
                raise CommandError(
                    f"{path} holds no list of benchmark rows (objects with "
                    f"{', '.join(KEY)}); nothing was changed"
                )
            self._rows = rows
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise CommandError(f"cannot write {path}: expected a writable file or folder")

    def add(self, row: Row) -> None:
        """Adds a row, in place of an earlier one of the same key, and writes the file."""
        new = to_json(row)
        self._rows = [old for old in self._rows if any(old[key] != new[key] for key in KEY)]
        self._rows.append(new)
        try:
            write_json(self.path, self._rows)
        except OSError as error:
            raise CommandError(f"cannot write {self.path}: {error.strerror}") from error

"""The table of a run: one line for each row, grouped by spec and mode."""

import itertools
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.bench.measure import DIFFERENT
from experiments.bench.store import Row

WIDTH = 118
SLOWER = 1.3
FOOTNOTE = (
    "* what the op chooses here; share = floor / median, w: inputs in the cache; "
    "error against the float64 reference, other: another function of the same shape"
)


def seconds_text(seconds: float | None) -> str:
    """Three digits and a unit.

    Example:
        >>> seconds_text(1.23456e-5), seconds_text(0.5), seconds_text(None)
        ('12.3 us', '500 ms', '-')
    """
    if seconds is None:
        return "-"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def bytes_text(number: float | None) -> str:
    """Three digits and a binary unit.

    Example:
        >>> bytes_text(3 * 2**20), bytes_text(100)
        ('3 MiB', '100 B')
    """
    if number is None:
        return "-"
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g} B"


def ceilings_text(ceilings: Mapping[str, float]) -> str:
    """The ceilings in one line.

    Example:
        >>> ceilings_text({"copy": 4.24e12, "bf16": 8e14})
        'copy 4.24 TB/s, bf16 800 TOP/s'
    """
    parts = []
    for name, rate in ceilings.items():
        scale, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
        parts.append(f"{name} {rate / scale:.3g} {prefix}{'B' if name == 'copy' else 'OP'}/s")
    return ", ".join(parts)


def _error_text(row: Row) -> str:
    if row.error is None:
        return "other" if row.error_scope == DIFFERENT else "-"
    return f"{row.error:.1e}"


def heading(row: Row) -> str:
    """What the rows of one spec and mode have in common."""
    return (
        f"{row.spec} {row.mode}: {row.dtype}, {bytes_text(row.bytes)}, {row.operations:.3g} "
        f"operations; floor {seconds_text(row.floor_seconds)} by {row.bound}"
    )


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Prints one table for each spec and mode.

    Args:
        rows: rows of one op, those of a spec and mode together.
        console: where to.
    """
    for (_, _), group in itertools.groupby(rows, lambda row: (row.spec, row.mode)):
        members = sorted(group, key=lambda row: (row.kind, row.seconds_median or float("inf")))
        console.print(f"\n[bold]{heading(members[0])}[/]", highlight=False)
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("", no_wrap=True, min_width=16)
        table.add_column("precision", no_wrap=True)
        for name in ("median", "p10..p90", "share", "compile", "peak", "error"):
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
        table.add_column("note", overflow="fold")
        for row in members:
            table.add_row(*_cells(row))
        console.print(table)
    console.print(f"\n{FOOTNOTE}", highlight=False)


def _cells(row: Row) -> list[str]:
    notes = [row.note]
    if row.failure:
        notes = [f"failed: {row.failure[:60]}"]
    elif row.seconds_median is None:
        notes.append("too short to time")
    elif row.device["platform"] != "cpu" and _slower_in_loop(row):
        notes.append("slower in the loop than launched")
    if row.error is None and not row.failure and row.error_scope != DIFFERENT:
        notes.append(row.error_scope)
    spread = row.spread
    share = "-" if row.share is None else f"{row.share:.0%}"
    return [
        ("* " if row.chosen else "  ") + row.implementation,
        row.precision,
        seconds_text(row.seconds_median),
        f"{seconds_text(spread['p10'])}..{seconds_text(spread['p90'])}" if spread else "-",
        share + (" w" if row.cache == "warm" and row.share is not None else "  "),
        seconds_text(row.compile_seconds),
        bytes_text(row.peak_bytes),
        _error_text(row),
        escape("; ".join(note for note in notes if note)),
    ]


def _slower_in_loop(row: Row) -> bool:
    """Whether the loop does not time what a caller gets, for calls longer than a launch."""
    launched, median = row.launched_seconds, row.seconds_median
    return launched is not None and median is not None and median > SLOWER * max(launched, 1e-3)

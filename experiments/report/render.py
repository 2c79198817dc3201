"""The report as tables: on the terminal with rich, and as Markdown."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from experiments.report.entries import Entry
from experiments.report.measured import Measured
from experiments.runner.result import format_number, styled_status

COLUMNS = ("experiment", "metric", "value", "paper", "goal", "status", "device", "commit", "date")


def row(entry: Entry) -> list[str]:
    """Cells of one entry, in the order of COLUMNS."""
    value = format_number(entry.value, entry.unit)
    if entry.value is None and entry.status == "short":
        value = "not finite"
    marks = (f" @{entry.variant}" if entry.variant else "") + (" (stale)" if entry.stale else "")
    return [
        entry.experiment + marks,
        entry.metric,
        value,
        format_number(entry.paper, entry.unit),
        f"{entry.direction} {format_number(entry.goal, entry.unit)}",
        entry.status,
        entry.device or "-",
        short_commit(entry.commit),
        (entry.date or "-")[:10],
    ]


def short_commit(commit: str | None) -> str:
    """Twelve digits of a commit, and whether the sources differed from it.

    Example:
        >>> short_commit("0123456789abcdef0123456789abcdef01234567+dirty")
        '0123456789ab+dirty'
    """
    if commit is None:
        return "-"
    parts = [one.partition("+") for one in commit.split(" + ")]
    return " + ".join(head[:12] + plus + dirty for head, plus, dirty in parts)


def summary(entries: Sequence[Entry]) -> str:
    """E.g. "12 pass, 1 short, 3 not run"."""
    counts = Counter(entry.status for entry in entries)
    return ", ".join(f"{counts[status]} {status}" for status in ("pass", "short", "not run"))


def families(entries: Sequence[Entry], measured: Sequence[Measured]) -> list[str]:
    """Families that have anything to show, in order."""
    return sorted({item.family for item in entries} | {item.family for item in measured})


def to_terminal(entries: Sequence[Entry], measured: Sequence[Measured], console: Console) -> None:
    """Prints a table for each family, then the summary."""
    for family in families(entries, measured):
        mine = [entry for entry in entries if entry.family == family]
        if mine:
            table = Table(title=family, title_justify="left", box=None, pad_edge=False)
            for column in COLUMNS:
                # on a narrow terminal a name goes on in the next line: cut short, it says nothing
                table.add_column(column, overflow="fold")
            for entry in mine:
                cells = row(entry)
                cells[COLUMNS.index("status")] = styled_status(entry.status)
                table.add_row(*cells)
            console.print(table)
        for item in measured:
            if item.family == family:
                columns = item.columns()
                table = Table(
                    *columns, title=item.title, title_justify="left", box=None, pad_edge=False
                )
                for cells in item.cells(columns):
                    table.add_row(*cells)
                console.print(table)
        console.print()
    console.print(summary(entries), highlight=False)


def to_markdown(entries: Sequence[Entry], measured: Sequence[Measured]) -> str:
    """The same as Markdown, with the commands that measure each experiment."""
    lines = ["# Results", "", f"Goals: {summary(entries)}.", ""]
    for family in families(entries, measured):
        lines += [f"## {family}", ""]
        mine = [entry for entry in entries if entry.family == family]
        if mine:
            lines += [*_table(COLUMNS, [row(entry) for entry in mine]), ""]
            commands = {entry.command: entry.experiment for entry in mine}
            lines += [f"- {name}: `{command}`" for command, name in commands.items()]
            stale = {entry.experiment: entry.stale for entry in mine if entry.stale}
            lines += [f"- {name} is stale: {text}" for name, text in stale.items()]
            lines.append("")
        for item in measured:
            if item.family == family:
                columns = item.columns()
                lines += [f"### {item.title}", "", *_table(columns, item.cells(columns)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]

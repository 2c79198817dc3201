"""`python -m experiments list`: every config, and whether a stored result exists."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from experiments import config_files
from experiments.errors import CommandError
from experiments.report.stored import read_stored
from experiments.runner.result import make_console, styled_status


@dataclass(frozen=True)
class Options:
    """Lists the configs; they are read, not imported."""

    family: str | None = None
    """Show one family only."""
    configs_dir: Path = config_files.CONFIGS
    """Where configs are."""
    results_dir: Path = config_files.RESULTS
    """Where stored results are."""


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `list` on the command line.

    Returns:
        0, or 2 for bad input.
    """
    options = tyro.cli(Options, args=argv, prog="python -m experiments list")
    try:
        _list(options)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _list(options: Options) -> None:
    files = config_files.find_configs(options.configs_dir)
    known = sorted({file.family for file in files})
    if options.family is not None and options.family not in known:
        raise CommandError(
            f"--family {options.family!r} is unknown; expected one of {', '.join(known)}"
        )
    stored = read_stored(options.results_dir)
    table = Table("family", "config", "stored result", "about", box=None, pad_edge=False)
    for file in files:
        if options.family in (None, file.family):
            results = stored.get((file.family, file.experiment))
            table.add_row(
                file.family,
                config_files.relative_path(file.path, options.configs_dir.resolve().parent),
                _stored_text(results.records if results else ()),
                file.summary,
            )
    make_console().print(table)


def _stored_text(records: tuple[dict, ...]) -> str:
    if not records:
        return "-"
    first = records[0]
    more = f", {len(records)} files" if len(records) > 1 else ""
    return f"{styled_status(first.get('status', '?'))} {first['date'][:10]}{more}"

"""`python -m experiments report`: stored results beside the paper's numbers and the goals."""

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments import config_files
from experiments.errors import CommandError
from experiments.report.entries import make_entries
from experiments.report.measured import read_measured
from experiments.report.render import to_markdown, to_terminal
from experiments.report.stored import read_stored
from experiments.runner.json_files import write_json, write_text
from experiments.runner.result import make_console


@dataclass(frozen=True)
class Options:
    """Shows goals from the configs and values from stored results; nothing is run."""

    json: Path | None = None
    """Also write the entries to this file, as a list of objects."""
    markdown: Path | None = None
    """Also write the tables to this file."""
    family: str | None = None
    """Show one family only."""
    configs_dir: Path = config_files.CONFIGS
    """Where configs are."""
    results_dir: Path = config_files.RESULTS
    """Where stored results are."""


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `report` on the command line.

    Returns:
        0; 1 if a config could not be loaded (its goals are missing); 2 for bad input.
    """
    options = tyro.cli(Options, args=argv, prog="python -m experiments report")
    try:
        return _report(options)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _report(options: Options) -> int:
    files = config_files.find_configs(options.configs_dir)
    stored = read_stored(options.results_dir)
    measured = read_measured(options.results_dir)
    known = {file.family for file in files} | {family for family, _ in stored}
    known |= {item.family for item in measured}
    if options.family is not None and options.family not in known:
        raise CommandError(
            f"--family {options.family!r} is unknown; expected one of {', '.join(sorted(known))}"
        )
    wanted = {options.family} if options.family else known
    loaded, failed = [], 0
    for file in files:
        if file.family in wanted:
            try:
                loaded.append(config_files.load(file.path, options.configs_dir))
            except Exception as error:  # one broken config must not hide the others
                failed += 1
                detail = "" if isinstance(error, CommandError) else traceback.format_exc()
                print(f"error: {file.path}: {error}\n{detail}", file=sys.stderr)
    entries = make_entries(loaded, stored)
    measured = [item for item in measured if item.family in wanted]
    to_terminal(entries, measured, make_console())
    have = {(file.family, file.experiment) for file in files}
    for family, experiment in sorted(set(stored) - have):
        if family in wanted:
            print(f"a stored result has no config: {family}/{experiment}")
    for path in (options.json, options.markdown):
        if path is not None:
            try:
                if path is options.json:
                    write_json(path, entries)
                else:
                    write_text(path, to_markdown(entries, measured))
            except OSError as error:
                raise CommandError(f"cannot write {path}: {error.strerror}") from error
            print(f"wrote {path}")
    return 1 if failed else 0

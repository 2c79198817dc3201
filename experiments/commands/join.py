"""`python -m experiments join CONFIG PIECE ...`: stores runs of a config's parts as one result."""

import sys
import tempfile
from pathlib import Path

from experiments import config_files
from experiments.commands.run import check_options, parse, store
from experiments.errors import CommandError

USAGE = """usage: python -m experiments join CONFIG PIECE ... [--variant NAME] [--field value ...]

Makes one result of runs that each did some phases of a config, and stores it where `report` reads
it. A piece is a stored result (a JSON file) or the work folder of a run, finished or not. Pieces
have the fields of the config, or those given as --field value and stored with --variant; their
lists may be shorter, as lists choose what is run. They are of one device and of the same versions,
and every phase is in exactly one of them."""


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `join` on the command line.

    Returns:
        Exit code, see `experiments.__main__`.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        _join(argv)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _join(argv: list[str]) -> None:
    count = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    name, *paths = argv[:count] or [""]
    if not name or not paths:
        raise CommandError("CONFIG and at least one PIECE must come first")
    loaded = config_files.load(config_files.resolve(name))
    options, config, overrides = parse(loaded, [*argv[count:], "--store"])
    if options.preset != "full":
        raise CommandError(f"--preset must be full, got {options.preset}")
    check_options(options, smoke=False, overrides=overrides)

    from experiments.runner import result
    from experiments.runner.picture import draw
    from experiments.runner.pieces import join, read_piece
    from experiments.runner.progress import make_progress

    about = {
        "family": config.family,
        "experiment": config.experiment,
        "variant": options.variant,
        "config_file": config_files.relative_path(loaded.path),
        "preset": "full",
        "overrides": overrides,
    }
    experiment = config.build()
    record = join(config, experiment, about, [read_piece(Path(path)) for path in paths])
    with tempfile.TemporaryDirectory() as folder:
        display = make_progress(speaks=True)
        results = result.phase_results(record["phases"])
        draw(experiment, results, record["metrics"], Path(folder) / "plot.png", display)
        display.close()
        result.show(record, Path(paths[-1]))
        store(record, options, Path(folder))

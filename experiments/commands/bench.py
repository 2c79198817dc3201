"""`python -m experiments bench OP`: time, memory and error of an op beside its floor and rivals.

Parsed with argparse: a GPU machine then needs no package beyond JAX, NumPy and rich.
"""

import argparse
import difflib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from experiments.errors import CommandError

if TYPE_CHECKING:
    from experiments.bench.modes import Mode

MODES: "dict[str, tuple[Mode, ...]]" = {
    "forward": ("forward",),
    "forward_backward": ("forward_backward",),
    "both": ("forward", "forward_backward"),
}
TAGS = ("gpu", "cpu", "smoke", "tpu")


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint about an unknown option names the nearest one."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown.split()[0], known, n=1)
            message = f"unknown argument {unknown!r}"
            message += f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: {message}\n{self.format_usage()}", end="", file=sys.stderr)
        raise SystemExit(2)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = _Parser(
        prog="python -m experiments bench",
        description="Measures one op at the shapes its family names, beside the floor that bytes "
        "and operations set on this device, and beside its rivals.",
        allow_abbrev=False,
    )
    parser.add_argument("op", metavar="OP", help="public name of the op")
    parser.add_argument("--spec", nargs="+", default=[], metavar="NAME", help="only these shapes")
    parser.add_argument(
        "--tag", choices=TAGS, help="shapes with this tag (default: the platform's own)"
    )
    parser.add_argument(
        "--implementation",
        nargs="+",
        metavar="NAME",
        help="only these (default: all but the reference)",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="NAME",
        help='only these rivals, or "none" (default: all that can run here)',
    )
    parser.add_argument("--mode", choices=tuple(MODES), default="forward")
    parser.add_argument(
        "--precision",
        choices=("default", "high", "highest"),
        help="of float32 products (default: what the shapes say, else highest)",
    )
    parser.add_argument(
        "--timer",
        choices=("loop", "profiler"),
        default="loop",
        help="a loop on the device, or the kernels in a profile (GPU; for calls of microseconds)",
    )
    parser.add_argument(
        "--repeats", type=_positive, default=30, metavar="N", help="samples (default: 30)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add the rows to this file, a JSON list"
    )
    return parser


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `bench` on the command line.

    Returns:
        0; 1 if a row failed, or none could be measured; 2 for bad input.
    """
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as error:  # --help, or bad input already explained
        return int(error.code or 0)
    try:
        return _bench(options, shlex.join(["python", "-m", "experiments", "bench", *argv]))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _bench(options: argparse.Namespace, command: str) -> int:
    # JAX takes a second to import; --help and typos do not wait for it.
    import jax
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from experiments.bench.ceilings import measure_ceilings
    from experiments.bench.measure import Effort
    from experiments.bench.registry import find_operation, select_specs, suggest
    from experiments.bench.rivals import find_rivals, select_rivals
    from experiments.bench.runner import Plan, run
    from experiments.bench.store import RowFile
    from experiments.bench.table import WIDTH, ceilings_text, print_rows

    operation = find_operation(options.op)
    platform = jax.default_backend()
    if options.timer == "profiler" and platform == "cpu":
        raise CommandError("--timer profiler needs a GPU: a CPU's profile has no device kernels")
    specs = select_specs(operation, options.spec, options.tag, platform)
    for name in options.implementation or ():
        if name not in operation.implementations():
            raise suggest(f"implementation of {operation.name}", name, operation.implementations())
    rivals = select_rivals(find_rivals(operation.family, operation.name), options.against)
    file = RowFile(options.json) if options.json else None
    rows, refused = [], {}
    errors = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("")

        def say(text: str) -> None:
            progress.update(task, description=text)
            if not errors.is_terminal:
                print(text, file=sys.stderr, flush=True)

        say("ceilings of this device")
        ceilings = measure_ceilings()
        plan = Plan(
            operation,
            specs,
            MODES[options.mode],
            tuple(options.implementation) if options.implementation else None,
            rivals,
            Effort(options.repeats, 20e-3, options.timer),
            ceilings,
            command,
            options.precision,
        )
        for row in run(plan, say, refused):
            rows.append(row)
            if file:
                file.add(row)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=False)
    for name, why in refused.items():
        console.print(f"left out, {name}: {why}", highlight=False, markup=False)
    if not rows:
        print("error: nothing could be measured", file=sys.stderr)
        return 1
    device = rows[0].device
    console.print(
        f"{operation.name} on {device['count']} x {device['kind']}, jax {rows[0].versions['jax']}; "
        f"ceilings: {ceilings_text(ceilings)}",
        highlight=False,
    )
    print_rows(rows, console)
    return 1 if any(row.failure for row in rows) else 0

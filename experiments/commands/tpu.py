"""`python -m experiments tpu [OP]`: compiles ops for TPUs on a machine without one."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from experiments.bench.registry import (
    Operation,
    families,
    find_operation,
    operations_of,
    select_specs,
    suggest,
)
from experiments.bench.table import bytes_text, seconds_text
from experiments.errors import CommandError
from experiments.runner import provenance
from experiments.runner.json_files import write_json
from experiments.runner.result import make_console
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.dispatch import assume_platform
from structlayers.testing.tpu import ALL, TARGETS, GateRow, TpuCompiler, TpuCompilerUnavailableError

# What is compiled where the command names no implementation, if the op has it.
IMPLEMENTATIONS = ("xla", "pallas_tpu")


@dataclass(frozen=True)
class Options:
    """Compiles ops for TPUs without one, and prints what the compiler says they cost.

    Without OP: every op that has specs tagged "tpu". Exit code 1 if a row does not compile. Every
    time is a compiled estimate; structlayers/testing/README.md says how it is made.
    """

    op: tyro.conf.Positional[str | None] = None
    """Public name of an op."""
    spec: tuple[str, ...] = ()
    """Names of specs; those tagged "tpu" where none is given."""
    target: tuple[str, ...] = ALL
    """TPU generations."""
    implementation: tuple[str, ...] = ()
    """Names of implementations; "xla" and "pallas_tpu" where none is given."""
    json: Path | None = None
    """File to write the rows to."""
    simulate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let the compiler simulate the kernels, waits for memory included; may take minutes."""
    timeout: float = 300.0
    """Seconds that one compilation may take."""


@dataclass(frozen=True)
class Job:
    """One implementation of an op at one spec.

    Attributes:
        operation: the op.
        spec: its shapes.
        implementation: a name; None for an op that has no choice.
        refusal: why the implementation does not take the spec on a TPU; None if it does.
    """

    operation: Operation
    spec: ArgSpec
    implementation: str | None
    refusal: str | None


def main(argv: list[str]) -> int:
    """Runs the command.

    Args:
        argv: what follows `tpu` on the command line.

    Returns:
        0 if everything compiled, 1 if something did not, 2 for bad input or a missing compiler.
    """
    options = tyro.cli(Options, args=argv, prog="python -m experiments tpu")
    # libtpu belongs to the process that compiles; here only shapes are traced.
    jax.config.update("jax_platforms", "cpu")
    try:
        return run(options)
    except (CommandError, TpuCompilerUnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def run(options: Options, searched: Sequence[str] | None = None) -> int:
    """Compiles, prints the table and writes the file.

    Args:
        options: what to compile.
        searched: import paths of families; None searches the whole library.

    Returns:
        0 if everything compiled, else 1.

    Raises:
        CommandError: unknown names, no specs, or a file that cannot be written.
    """
    known = {name.lower(): name for name in TARGETS}
    for name in options.target:
        if name.lower() not in known:
            raise suggest("target", name, ALL)
    if options.timeout <= 0:
        raise CommandError(f"--timeout must be > 0 seconds, got {options.timeout:g}")
    if options.json is not None:
        _check_writable(options.json)
    jobs = plan(options, searched)
    console = make_console()
    rows: list[dict[str, Any]] = []
    with TpuCompiler(timeout=options.timeout, simulate=options.simulate) as compiler:
        for job, target in _track(
            [(job, known[t.lower()]) for job in jobs for t in options.target]
        ):
            rows.append(
                _row(job, _compile(compiler, job, target), asked=bool(options.implementation))
            )
        versions = provenance.versions() | dict(compiler.versions)
    show(rows, console)
    if options.json is not None:
        record = {
            "rows": rows,
            "times": "compiled estimates, not measured",
            "versions": versions,
            "commit": provenance.commit(),
            "date": provenance.date(),
        }
        write_json(options.json, record)
        console.print(f"wrote {options.json}", soft_wrap=True)
    return 1 if any(row["available"] and not row["compiled"] for row in rows) else 0


def plan(options: Options, searched: Sequence[str] | None = None) -> list[Job]:
    """What the options ask to compile.

    Args:
        options: of the command line.
        searched: import paths of families; None searches the whole library.

    Raises:
        CommandError: unknown names, or nothing to compile.
    """
    if options.op is not None:
        operations = [find_operation(options.op, searched)]
    elif options.spec:
        raise CommandError("--spec needs OP in front: specs are named within their op")
    else:
        operations = [
            operation
            for family in (families() if searched is None else searched)
            for operation in operations_of(family).values()
            if any("tpu" in spec.tags for spec in operation.specs)
        ]
        if not operations:
            raise CommandError("no op of the library has specs tagged 'tpu'")
    jobs = [
        Job(operation, spec, name, _refusal(operation, spec, name, options))
        for operation in operations
        for spec in select_specs(operation, options.spec, "tpu", "tpu")
        for name in _implementations(operation, options.implementation)
    ]
    if not jobs:
        raise CommandError(
            f"no op has an implementation named {' or '.join(options.implementation)}"
        )
    return jobs


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the rows, and the errors in full below.

    Args:
        rows: as they are written to the file.
        console: where to.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("implementation", "target"):
        table.add_column(name, no_wrap=True)
    for name in ("estimate", "by", "bundles", "MXU", "spills", "temp", "compile"):
        table.add_column(name, justify="right", no_wrap=True)
    group = None
    for row in rows:
        if (row["op"], row["spec"]) != group:
            group = (row["op"], row["spec"])
            table.add_row(f"[bold]{row['op']}[/] {row['spec']}")
        table.add_row(*_cells(row))
    console.print(table)
    for (label, note), targets in _notes(rows).items():
        text = f"note: {label}: {note} ({', '.join(targets)})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for row in rows:
        label = f"{row['spec']} {row['implementation'] or ''} {row['target']}"
        style = "red" if row["available"] else ""
        if row["error"]:  # a Text: the message may hold what looks like markup
            console.print(Text.assemble((label, style), f": {row['error']}"), soft_wrap=True)
    compiled = sum(row["compiled"] for row in rows)
    refused = sum(not row["available"] for row in rows)
    console.print(
        f"{compiled} compiled, {len(rows) - compiled - refused} failed, {refused} not available; "
        "times are compiled estimates, not measured",
        highlight=False,
    )


def _notes(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Targets for each note of an implementation at a spec."""
    targets: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        label = f"{row['spec']} {row['implementation'] or ''}".rstrip()
        for note in (*row["notes"], *(note for one in row["kernels"] for note in one["notes"])):
            targets.setdefault((label, note), []).append(row["target"])
    return targets


def _cells(row: dict[str, Any]) -> list[str]:
    cells = ["  " + (row["implementation"] or "-"), row["target"]]
    if not row["available"]:
        return [*cells, "not available"]
    if not row["compiled"]:
        return [*cells, "[red]failed[/]"]
    parts = {"schedule": row["estimated_seconds"], "XLA": row["xla_estimated_seconds"]}
    if row["simulated_seconds"] is not None:
        parts = {"simulation": row["simulated_seconds"], "XLA": row["xla_estimated_seconds"]}
    parts = {by: seconds for by, seconds in parts.items() if seconds is not None}
    share = row["mxu_share"]
    return [
        *cells,
        seconds_text(sum(parts.values()) if parts else None),
        " + ".join(parts) or "-",
        str(row["bundles"] or "-"),
        "-" if share is None else f"{share:.0%}",
        "-" if row["spills"] is None else str(row["spills"]),
        bytes_text(row["memory"]["temp"]),
        seconds_text(row["compile_seconds"]),
    ]


def _compile(compiler: TpuCompiler, job: Job, target: str) -> GateRow:
    if job.refusal is not None:
        return GateRow(target, compiled=False, error=job.refusal)
    static = dict(job.spec.static)
    if job.implementation is not None:
        static["implementation"] = job.implementation
    path = f"{job.operation.family}:{job.operation.name}"
    try:
        return compiler.compile(path, *job.spec.arrays, targets=(target,), **static)[0]
    except (ImportError, TypeError) as error:
        raise CommandError(f"{job.spec.name}: {error}") from error


def _row(job: Job, row: GateRow, *, asked: bool) -> dict[str, Any]:
    # a generation may be too small for an implementation that serves another
    refused = not asked and "cannot serve: " in (row.error or "")
    return {
        "op": job.operation.name,
        "spec": job.spec.name,
        "implementation": job.implementation,
        "available": job.refusal is None and not refused,
        **dataclasses.asdict(row),
    }


def _implementations(operation: Operation, names: Sequence[str]) -> list[str | None]:
    known = operation.implementations()
    for name in names:
        if name not in known:
            raise suggest(f"implementation of {operation.name}", name, known)
    if operation.dispatcher is None:
        return [None]
    return [name for name in names or IMPLEMENTATIONS if name in known]


def _refusal(operation: Operation, spec: ArgSpec, name: str | None, options: Options) -> str | None:
    """Why the dispatcher would not take an implementation that nobody asked for by name."""
    if name is None or options.implementation or operation.dispatcher is None:
        return None
    entries = {entry.name: entry for entry in operation.dispatcher.implementations}
    if entries[name].check is None:
        return None
    with assume_platform("tpu"):
        try:
            operation.trace(spec, name)
        except NotImplementedError as error:
            return str(error)
        except Exception:
            return None  # not a refusal: the compiler's row will have the error
    return None


def _track[T](work: Sequence[T]) -> Any:
    """The same items, with progress on standard error."""
    progress = Progress(
        TextColumn("compiling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        yield from progress.track(work)


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--json {path} cannot be written: {error.strerror}") from error
    if path.is_dir():
        raise CommandError(f"--json {path} is a folder; expected a file")

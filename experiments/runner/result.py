"""result.json: the numbers of a finished run beside the paper's and the goals, and the verdict."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.experiment import Config, Experiment, Goal, Results
from experiments.runner.json_files import number


def check_metrics(metrics: Mapping[str, Any]) -> dict[str, float | int]:
    """Metrics as plain numbers.

    Raises:
        TypeError: a value is no real number; the message names it.
    """
    plain: dict[str, float | int] = {}
    for name, value in metrics.items():
        array = np.asarray(value)
        if array.ndim or array.dtype.kind in "cOSU":
            raise TypeError(
                f"metric {name!r} must be a real number, got {type(value).__name__} {value!r}"
            )
        plain[name] = int(array) if array.dtype.kind in "biu" else float(array)
    return plain


def phase_results(finished: Mapping[str, Mapping[str, Any]]) -> Results:
    """Results of finished phases, as `Experiment.finish` takes them."""
    return {name: entry["results"] for name, entry in finished.items()}


def make_record(
    config: Config,
    experiment: Experiment,
    finished: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    *,
    fields: Mapping[str, Any],
    total_seconds: float,
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """What result.json holds.

    Args:
        config: states the goals.
        experiment: turns results into metrics.
        finished: name to {"results", "steps", "seconds"} of all phases, in their order.
        about: config file, preset, variant, changed fields.
        fields: of the config, as JSON.
        total_seconds: wall seconds, work that was lost included.
        source: "device", "versions", "commit", "starts", "command", "date" of the numbers.
    """
    record: dict[str, Any] = {
        **about,
        "config": fields,
        "metrics": check_metrics(experiment.finish(phase_results(finished))),
        "seconds": {
            "compute": sum(entry["seconds"] for entry in finished.values()),
            "total": total_seconds,
        },
        "steps": sum(entry["steps"] for entry in finished.values()),
        "phases": finished,
        **source,
    }
    record["goals"] = judge(config.goals(), record)
    record["status"] = overall(record["goals"], smoke=about.get("preset") == "smoke")
    return record


def lookup(record: Mapping[str, Any], metric: str) -> float | int | None:
    """Value of a metric in a result: out of "metrics", or a figure of the runner by its path.

    Args:
        record: what result.json holds.
        metric: e.g. "rmse", "seconds.total", "phases.n0064.seconds".

    Example:
        >>> lookup({"metrics": {"a": "NaN"}, "seconds": {"total": 2.0}}, "seconds.total")
        2.0
    """
    if metric in record.get("metrics", {}):
        return number(record["metrics"][metric])
    head, *rest = metric.split(".")
    if head not in ("seconds", "steps", "phases"):
        return None
    value: Any = record.get(head)
    if head == "phases" and len(rest) > 1:
        rest = [".".join(rest[:-1]), rest[-1]]  # a phase's name may hold dots
    for key in rest:
        value = value.get(key) if isinstance(value, Mapping) else None
    return number(value)


def judge(goals: Iterable[Goal], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its value and status, as result.json keeps them."""
    rows = []
    for goal in goals:
        value = lookup(record, goal.metric)
        rows.append(
            {
                "metric": goal.metric,
                "value": value,
                "unit": goal.unit,
                "paper": goal.paper,
                "goal": goal.goal,
                "direction": goal.direction,
                "status": goal.status(value),
            }
        )
    return rows


def overall(goals: Iterable[Mapping[str, Any]], *, smoke: bool) -> str:
    """Verdict: "pass" if every goal is reached, else "short"; smoke runs may leave goals out.

    Example:
        >>> overall([{"status": "pass"}, {"status": "not run"}], smoke=True)
        'pass'
    """
    reached = {"pass", "not run"} if smoke else {"pass"}
    return "pass" if all(goal["status"] in reached for goal in goals) else "short"


def show(record: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Prints goals, or metrics where there are none, and where the files are."""
    console = console or make_console()
    if record["goals"]:
        table = Table("metric", "value", "paper", "goal", "status", box=None, pad_edge=False)
        for goal in record["goals"]:
            table.add_row(
                goal["metric"],
                format_number(goal["value"], goal["unit"]),
                format_number(goal["paper"], goal["unit"]),
                f"{goal['direction']} {format_number(goal['goal'], goal['unit'])}",
                styled_status(goal["status"]),
            )
    else:
        table = Table("metric", "value", box=None, pad_edge=False)
        for name, value in record["metrics"].items():
            table.add_row(name, format_number(value))
    console.print(table)
    seconds = record["seconds"]
    console.print(
        f"{styled_status(record['status'])}: {record['family']}/{record['experiment']}, "
        f"{record['steps']} steps in {seconds['total']:.1f} s "
        f"({seconds['compute']:.1f} s computing); {folder}",
        highlight=False,
        soft_wrap=True,
    )


def make_console() -> Console:
    """Console on standard output; 120 columns where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def styled_status(status: str) -> str:
    """Status in rich's markup."""
    colour = {"pass": "green", "short": "red"}.get(status, "yellow")
    return f"[{colour}]{status}[/{colour}]"


def format_number(value: Any, unit: str = "") -> str:
    """Three digits and the unit; a dash for nothing.

    Example:
        >>> format_number(0.00012345), format_number(12, "s"), format_number(None)
        ('0.000123', '12 s', '-')
    """
    value = number(value)
    if value is None:
        return "-"
    text = f"{value}" if isinstance(value, int) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()

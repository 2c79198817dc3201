"""Entries of the report: one for each goal of each config."""

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from experiments.config_files import LoadedConfig, relative_path
from experiments.experiment import ONLY_GOALS
from experiments.report.stored import Stored
from experiments.runner.work_folder import RunIdentity, differing_fields


@dataclass(frozen=True)
class Entry:
    """One figure to reach, beside what was measured.

    Attributes:
        family: of the config.
        experiment: of the config.
        metric: name of the figure.
        value: from a stored result; None if there is none, or if it is NaN or infinite.
        unit: of value, paper and goal.
        paper: the paper's value.
        goal: the bound.
        direction: "<=" or ">=".
        status: "pass", "short" or "not run".
        command: command line that measures it.
        device: where it was measured, e.g. "NVIDIA H200 x1".
        versions: of the packages used.
        commit: of the checkout that measured it.
        date: when.
        variant: name of the stored variant, None for the base result.
        stale: fields of the config that have changed since, "" where none has.
    """

    family: str
    experiment: str
    metric: str
    value: float | None
    unit: str
    paper: float | None
    goal: float
    direction: str
    status: str
    command: str
    device: str | None
    versions: dict[str, str] | None
    commit: str | None
    date: str | None
    variant: str | None
    stale: str


def make_entries(
    configs: Iterable[LoadedConfig], stored: Mapping[tuple[str, str], Stored]
) -> list[Entry]:
    """Joins the configs' goals and the stored values.

    Args:
        configs: loaded config files; their full preset states the goals.
        stored: what `read_stored` gives.

    Returns:
        entries in the order of configs and goals.
    """
    entries = []
    for loaded in configs:
        config = loaded.config
        results = stored.get(
            (config.family, config.experiment), Stored(config.family, config.experiment)
        )
        for goal in config.goals():
            value, record = results.find(goal.metric)
            entries.append(
                Entry(
                    family=config.family,
                    experiment=config.experiment,
                    metric=goal.metric,
                    value=value if value is not None and math.isfinite(value) else None,
                    unit=goal.unit,
                    paper=goal.paper,
                    goal=goal.goal,
                    direction=goal.direction,
                    status=goal.status(value),
                    command=_command(loaded, record),
                    device=device_text(record.get("device")) if record else None,
                    versions=record.get("versions") if record else None,
                    commit=record.get("commit") if record else None,
                    date=record["date"] if record else None,
                    variant=record.get("variant") if record else None,
                    stale=_stale(loaded, record),
                )
            )
    return entries


def device_text(device: Any) -> str | None:
    """Device of a result as one text.

    Example:
        >>> device_text({"platform": "gpu", "kind": "NVIDIA H200", "count": 2})
        'NVIDIA H200 x2'
    """
    if isinstance(device, Mapping) and "kind" in device:
        return f"{device['kind']} x{device.get('count', 1)}"
    return device if isinstance(device, str) else None


def _command(loaded: LoadedConfig, record: Mapping[str, Any] | None) -> str:
    if record and isinstance(record.get("command"), str):
        return record["command"]
    return shlex.join(["python", "-m", "experiments", "run", relative_path(loaded.path), "--store"])


def _stale(loaded: LoadedConfig, record: Mapping[str, Any] | None) -> str:
    """Fields that the stored run had otherwise than the config today, overrides and goals aside.

    A field that the run did not have yet is no change: code that adds one keeps what was done
    before as its default.
    """
    if record is None or not isinstance(record.get("config"), dict):
        return ""
    now = RunIdentity.of(loaded.config).fields
    aside = {name.split(".")[0] for name in record.get("overrides") or {}}
    aside |= {
        field.name
        for field in fields(loaded.config)  # pyrefly: ignore
        if field.metadata.keys() & ONLY_GOALS.keys()
    }
    then = {key: value for key, value in record["config"].items() if key not in aside}
    now = {key: value for key, value in now.items() if key in then}
    return "; ".join(differing_fields(then, now))

"""A phase a case, measured by `experiments.bench`: times, also per degree of freedom."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.bench.measure import Effort
from experiments.bench.phase import MeasuredPhase, measure_spec
from experiments.equivariant.microbenchmark.cases import Case
from experiments.experiment import Results

type Published = Mapping[str, Mapping[str, float]]
"""Microseconds of a paper, by key of the case and name of the row."""


@dataclass(frozen=True)
class Measure(MeasuredPhase):
    """All products of one case."""

    case: Case
    effort: Effort
    command: str

    @property
    @override
    def key(self) -> str:
        """That of the case."""
        return self.case.key

    @override
    def measure(self) -> Iterator[dict[str, Any]]:
        """A row for each product, and one with the reason for each that is left out."""
        job = self.case.prepare()
        refused: dict[str, str] = {}
        found = measure_spec(
            job.spec,
            "forward",
            (*job.implementations, *(rival.name for rival in job.rivals)),
            self.effort,
            {},  # no shares are wanted
            self.command,
            compare=False,  # op_numerics and the tests compare
            operation=job.operation,
            rivals=job.rivals,
            refused=refused,
        )
        for row in found:
            counts = job.counts.get(row["implementation"])
            if row["kind"] == "implementation":
                counts = job.own
            yield {
                **row,
                **(asdict(counts) if counts else {}),
                "paths": job.paths,
                "baseline": row["implementation"] in job.baselines,
            }
        for name, reason in refused.items():
            yield {
                "implementation": name,
                "kind": "left out",
                "chosen": False,
                "baseline": False,
                "seconds_median": None,
                "failure": reason,
            }

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The rows, and where they belong."""
        del state
        return {
            "panel": self.case.panel,
            "axis": self.case.axis,
            "at": self.case.at,
            "key": self.key,
            "rows": self.rows,
        }


@dataclass(frozen=True)
class Microbenchmark:
    """A phase a case.

    Attributes:
        cases: in order, those of a panel together.
        effort: how long to measure.
        command: command line, for the rows.
        published: to be drawn beside.
    """

    cases: tuple[Case, ...]
    effort: Effort
    command: str
    published: Published

    def phases(self) -> Sequence[Measure]:
        """Case by case."""
        return [Measure(case, self.effort, self.command) for case in self.cases]

    def finish(self, results: Results) -> dict[str, float]:
        """`CASE/...` of `numbers`."""
        return {
            f"{result['key']}/{name}": value
            for result in results.values()
            for name, value in numbers(result["rows"]).items()
        }

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Times over the axis of each panel, raw and per degree of freedom."""
        from experiments.equivariant.microbenchmark.plots import draw

        draw(list(results.values()), self.published, path)


def numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of one case.

    - `ROW/us`, `ROW/us_per_dof`: microseconds, and these over the degrees of freedom, where there
      are some; `ROW/interactions`, `ROW/degrees_of_freedom`.
    - `paths`: all between the degrees.
    - `chosen/us`: of what the op chooses; `speedup`: time of the fastest baseline over it. A
      baseline that is the same program has the same time here, be it that chance measured another:
      they tie.

    One that failed, or was too short to time, has NaN; one that is left out has nothing.

    Example:
        >>> rows = [
        ...     {"implementation": "xla", "kind": "implementation", "chosen": True,
        ...      "baseline": False, "seconds_median": 2e-6, "degrees_of_freedom": 5,
        ...      "interactions": 5, "paths": 6},
        ...     {"implementation": "sparse", "kind": "rival", "chosen": False,
        ...      "baseline": True, "seconds_median": 6e-6},
        ... ]
        >>> found = numbers(rows)
        >>> found["xla/us_per_dof"], found["speedup"], found["paths"]
        (0.4, 3.0, 6)
    """
    found: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "left out":
            continue
        name, us = row["implementation"], 1e6 * (row["seconds_median"] or math.nan)
        found[f"{name}/us"] = us
        for count in ("interactions", "degrees_of_freedom"):
            if count in row:
                found[f"{name}/{count}"] = row[count]
        if row.get("degrees_of_freedom"):
            found[f"{name}/us_per_dof"] = us / row["degrees_of_freedom"]
        if row.get("paths"):
            found["paths"] = row["paths"]
    chosen = next((row for row in rows if row["chosen"]), None)
    if chosen is not None:
        found["chosen/us"] = found[f"{chosen['implementation']}/us"]
        times = [found[f"{_timed_as(row, chosen)}/us"] for row in rows if row["baseline"]]
        if times:
            found["speedup"] = min(times) / found["chosen/us"]
    return found


def _timed_as(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """The row whose time is taken: one for a program."""
    same = row.get("program") is not None and row["program"] == chosen.get("program")
    return chosen["implementation"] if same else row["implementation"]

"""What the phases of speed experiments share: one step, in which rows are measured."""

import abc
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.bench import runner
from experiments.bench.ceilings import measure_ceilings
from experiments.bench.measure import Effort
from experiments.bench.modes import Mode
from experiments.bench.registry import Operation, find_operation
from experiments.bench.rivals import Rival, find_rivals
from structlayers._core.arg_spec import ArgSpec

# Of a row of the benchmark; what all rows of a run share stands in the result once.
KEPT = (
    "implementation",
    "kind",
    "chosen",
    "seconds_median",
    "spread",
    "peak_bytes",
    "precision",
    "cache",
    "timer",
    "error",
    "program",
    "failure",
)


@functools.cache
def ceilings() -> dict[str, float]:
    """What the device reaches, measured once for all phases of a run."""
    return measure_ceilings()


def select_candidates(
    operation: Operation,
    spec: ArgSpec,
    names: Sequence[str],
    rivals: Sequence[Rival] | None = None,
) -> tuple[tuple[str, ...], tuple[Rival, ...]]:
    """Implementations of these names and the one that the op chooses, and rivals of these names.

    Args:
        operation: the op.
        spec: the shape.
        names: of implementations and rivals.
        rivals: to choose from; None for those of the family.
    """
    _, choice = operation.trace(spec, None)
    wanted = {choice.name if choice else None, *names}
    if rivals is None:
        rivals = find_rivals(operation.family, operation.name)
    return (
        tuple(name for name in operation.implementations() if name in wanted),
        tuple(rival for rival in rivals if rival.name in wanted),
    )


def measure_spec(
    spec: ArgSpec,
    mode: Mode,
    names: Sequence[str],
    effort: Effort,
    ceilings: Mapping[str, float],
    command: str,
    *,
    compare: bool,
    operation: Operation | None = None,
    rivals: Sequence[Rival] | None = None,
    refused: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of `select_candidates` at one shape in one mode, as far as results keep them.

    Args:
        spec: the shape.
        mode: "forward" or "forward_backward".
        names: of implementations and rivals.
        effort: how long to measure.
        ceilings: as `measure_ceilings` gives them.
        command: command line, for the rows.
        compare: whether values are compared with the reference.
        operation: None for the op that the spec names.
        rivals: to choose from; None for those of the family.
        refused: filled with the reason for each candidate that cannot serve, by name.
    """
    operation = operation or find_operation(spec.op)
    implementations, chosen = select_candidates(operation, spec, names, rivals)
    reasons: dict[str, str] = {}
    plan = runner.Plan(
        operation,
        (spec,),
        (mode,),
        implementations,
        chosen,
        effort,
        ceilings,
        command,
        compare=compare,
    )
    for row in runner.run(plan, refused=reasons):
        yield {name: getattr(row, name) for name in KEPT}
    if refused is not None:
        refused.update({name.removeprefix(f"{spec.name}: "): why for name, why in reasons.items()})


@dataclass(frozen=True)
class MeasuredPhase(abc.ABC):
    """A phase of one step; a subclass says what it measures and what it makes of the rows.

    Attributes:
        rows: measured ones, each with "implementation" and "seconds_median".
    """

    rows: list[dict[str, Any]] = field(default_factory=list, compare=False, kw_only=True)

    @property
    def num_steps(self) -> int:
        """All is measured at once."""
        return 1

    @property
    @abc.abstractmethod
    def key(self) -> str:
        """Start of the names of its metrics."""

    @abc.abstractmethod
    def measure(self) -> Iterator[dict[str, Any]]:
        """The rows."""

    @property
    def name(self) -> str:
        """The key as a file name."""
        return self.key.replace("/", "_")

    def init(self) -> np.ndarray:
        """Nothing measured."""
        return np.zeros(1)

    def advance(self, state: np.ndarray, step: int, num: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Measures every candidate; logs seconds by name."""
        del step, num
        self.rows[:] = list(self.measure())
        seconds = {row["implementation"]: row["seconds_median"] for row in self.rows}
        return state + 1, {name: value for name, value in seconds.items() if value is not None}

    def host_state(self) -> dict[str, Any]:
        """The rows, which are no arrays."""
        return {"rows": self.rows}

    def set_host_state(self, state: dict[str, Any]) -> None:
        """Takes the rows back."""
        self.rows[:] = state["rows"]

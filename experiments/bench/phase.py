"""What the phases of speed experiments share: one step, in which rows are measured."""

import abc
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.bench.ceilings import measure_ceilings

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
    "failure",
)


@functools.cache
def ceilings() -> dict[str, float]:
    """What the device reaches, measured once for all phases of a run."""
    return measure_ceilings()


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

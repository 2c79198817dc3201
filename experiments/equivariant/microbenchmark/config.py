"""What the configs of microbenchmarks have in common."""

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from experiments.equivariant.speed.config import PRECISIONS
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.equivariant.microbenchmark.cases import Case
    from experiments.equivariant.microbenchmark.experiment import Microbenchmark, Published

_WORDS = ("default", "high", *PRECISIONS)


@dataclass(frozen=True)
class MicrobenchmarkConfig(abc.ABC):
    """Fields of all of them; a config adds its cases."""

    family: str = "equivariant"
    experiment: str = ""
    precision: str = "tf32"
    """A word of `gaunt_tensor_product`; products that have only JAX's words take "default" for
    those that they lack."""
    repeats: int = 20
    """Samples of each time."""
    sample_seconds: float = 20e-3
    """Length of a sample of the loop."""
    timer: Literal["loop", "profiler"] = "profiler"
    """Device time by the profiler (GPU), or a loop on the device."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        self._require("precision", (self.precision,), _WORDS)
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    @staticmethod
    def _require(field: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
        for value in values:
            if value not in known:
                raise ValueError(f"{field} must be among {', '.join(known)}; got {value!r}")

    @staticmethod
    def _require_range(field: str, values: tuple[int, ...], least: int, most: int) -> None:
        for value in values:
            if not least <= value <= most:
                raise ValueError(f"{field} must be {least} to {most}, got {value}")

    @abc.abstractmethod
    def cases(self) -> "tuple[Case, ...]":
        """All that is measured, in order."""

    @abc.abstractmethod
    def published(self) -> "Published":
        """Times of the paper."""

    def build(self) -> "Microbenchmark":
        """The experiment: one phase a case."""
        from experiments.bench.measure import Effort
        from experiments.equivariant.microbenchmark.experiment import Microbenchmark

        return Microbenchmark(
            self.cases(),
            Effort(self.repeats, self.sample_seconds, self.timer),
            f"python -m experiments run configs/{self.family}/{self.experiment}.py",
            self.published(),
        )

    def published_goals(self, rows: tuple[str, ...]) -> tuple[Goal, ...]:
        """Not slower than published, for these rows of the cases that there are."""
        keys = {case.key for case in self.cases()}
        return tuple(
            Goal(f"{key}/{row}/us", value, "<=", paper=value, unit="us")
            for key, found in self.published().items()
            for row, value in found.items()
            if key in keys and row in rows
        )

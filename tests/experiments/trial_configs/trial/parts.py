"""A phase for every part that is asked for."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from experiments.experiment import Goal, Results, Scalars


@dataclass(frozen=True)
class PartPhase:
    """Counts up to the length of its name, scaled."""

    name: str
    scale: float
    num_steps: int = 2
    chunk: int = 1

    def init(self) -> np.ndarray:
        """Zero."""
        return np.zeros(())

    def advance(self, state: np.ndarray, step: int, num: int) -> tuple[np.ndarray, Scalars]:
        """Adds half of it in each step."""
        del step
        return state + num * self.scale * len(self.name) / 2, {}

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The count."""
        return {"count": float(state)}


@dataclass(frozen=True)
class Parts:
    """All parts."""

    config: "Config"

    def phases(self) -> Sequence[PartPhase]:
        """As asked for."""
        return [PartPhase(name, self.config.scale) for name in self.config.parts]

    def finish(self, results: Results) -> dict[str, Any]:
        """Every count, and their sum once all are there."""
        counts = {name: result["count"] for name, result in results.items()}
        return counts | ({"sum": sum(counts.values())} if len(counts) == 3 else {})

    def plot(self, results: Results, metrics: dict[str, Any], path: Path) -> None:
        """A file that stands for a picture."""
        del results
        path.write_bytes(b"\x89PNG" + str(sorted(metrics)).encode())


@dataclass(frozen=True)
class Config:
    """Which parts."""

    family: str = "trial"
    experiment: str = "parts"
    parts: tuple[str, ...] = ("one", "two", "three")
    scale: float = 1.0

    def build(self) -> Parts:
        """The experiment."""
        return Parts(self)

    def goals(self) -> tuple[Goal, ...]:
        """Of a part, and of all."""
        return (Goal("three", 5.0, ">="), Goal("sum", 11.0, ">="))

    def smoke(self) -> Self:
        """The first part."""
        return dataclasses.replace(self, parts=self.parts[:1])


def get_config() -> Config:
    """The config."""
    return Config()

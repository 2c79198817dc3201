"""Figure 3 of the paper, drawn from the stored results beside the paper's own numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from experiments.butterfly.recovery import paper
from experiments.experiment import Goal, Phase

# Row of the figure to the configs whose stored results hold it; the better value is shown.
ROWS = {
    "dft": ("recover_dft",),
    "dct": ("recover_dct",),
    "dst": ("recover_dst",),
    "convolution": ("recover_convolution", "recover_convolution_1024"),
    "hadamard": ("recover_hadamard",),
    "hartley": ("recover_hartley",),
    "legendre": ("recover_legendre",),
    "randn": ("recover_randn",),
}


@dataclass(frozen=True)
class Figure3Config:
    """The heat map of all rows and sizes.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        sizes: transform sizes shown.
        results: folder of stored results; empty for experiments/results/butterfly.
    """

    family: str = "butterfly"
    experiment: str = "figure3"
    sizes: tuple[int, ...] = paper.SIZES
    results: str = ""

    @property
    def folder(self) -> Path:
        """Where the stored results are."""
        default = Path(__file__).parents[2] / "results" / self.family
        return Path(self.results) if self.results else default

    def build(self) -> "Figure3":
        """The experiment: one phase that reads the results."""
        return Figure3(self)

    def smoke(self) -> Self:
        """The same: it is only reading and drawing."""
        return self

    def goals(self) -> tuple[Goal, ...]:
        """Every cell of the figure at or below the paper's."""
        cells = len(ROWS) * len(self.sizes)
        return (Goal("cells_not_above_paper", cells, ">="),)


@dataclass(frozen=True)
class ReadResults:
    """Collects the best float32 RMSE of every cell."""

    config: Figure3Config
    name: str = "read"
    num_steps: int = 1

    def init(self) -> dict[str, np.ndarray]:
        """Cells without a result are infinite."""
        return {"rmse": np.full((len(ROWS), len(self.config.sizes)), np.inf)}

    allow_nonfinite = frozenset({"*"})

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Reads every stored result once."""
        del step, num
        table = np.array(state["rmse"])
        for row, names in enumerate(ROWS.values()):
            for name in names:
                metrics = read_metrics(self.config.folder, name)
                for column, n in enumerate(self.config.sizes):
                    value = metrics.get(f"n{n:04d}/float32/rmse", np.inf)
                    table[row, column] = min(table[row, column], value)
        return {"rmse": table}, {"cells": float(np.isfinite(table).sum())}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """The table; null where nothing is stored."""
        cells = np.asarray(state["rmse"])
        return {
            name: [float(value) if np.isfinite(value) else None for value in row]
            for name, row in zip(ROWS, cells, strict=True)
        }


def read_metrics(folder: Path, name: str) -> dict[str, float]:
    """Metrics of a stored result and its variants; the result itself has the last word."""
    metrics: dict[str, float] = {}
    for path in [*sorted(folder.glob(f"{name}@*.json")), folder / f"{name}.json"]:
        if path.exists():
            metrics |= json.loads(path.read_text())["metrics"]
    return metrics


@dataclass(frozen=True)
class Figure3:
    """One phase and one picture."""

    config: Figure3Config

    def phases(self) -> Sequence[Phase]:
        """Reading."""
        return [ReadResults(self.config)]

    def finish(self, results: dict[str, dict[str, Any]]) -> dict[str, float]:
        """How many cells there are, and how many are at or below the paper's."""
        table = results["read"]
        cells = [
            (value, paper.rmse(name, n))
            for name, row in table.items()
            for n, value in zip(self.config.sizes, row, strict=True)
            if value is not None
        ]
        reached = [published is not None and value <= published for value, published in cells]
        return {"cells": float(len(cells)), "cells_not_above_paper": float(sum(reached))}

    def plot(
        self, results: dict[str, dict[str, Any]], metrics: Mapping[str, Any], path: Path
    ) -> None:
        """Heat maps: ours, the paper's, and the best baseline at equal budget."""
        from experiments.butterfly.recovery.plots import draw_heat_maps

        baselines = read_metrics(self.config.folder, "recovery_baselines")
        draw_heat_maps(results["read"], baselines, self.config.sizes, path)

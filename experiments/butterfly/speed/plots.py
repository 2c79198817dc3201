"""Picture of the speed experiment."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments.butterfly.speed import paper
from experiments.butterfly.speed.config import SpeedConfig
from experiments.butterfly.speed.experiment import ratios


def draw_speedups(config: SpeedConfig, results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a sweep: speed-up over the dense product against N."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for result in results.values():
        panels.setdefault(result["sweep"], []).append(result)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(7 * columns, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, found) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, found)
        if title == config.paper_sweep:
            for what, style in (("butterfly", "k--"), ("fft", "k:")):
                points = [
                    (result["n"], value)
                    for result in found
                    if (value := paper.speedup(config.paper_table, what, result["n"])) is not None
                ]
                if points:
                    label = f"Dao et al. 2019, {what}"
                    axes.plot(*zip(*points, strict=True), style, lw=1, label=label)
        axes.axhline(1, c="grey", lw=0.8)
        axes.set(title=title, xlabel="N", ylabel="speed-up over a dense product", yscale="log")
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_panel(axes: Any, found: list[dict[str, Any]]) -> None:
    curves: dict[str, list[tuple[int, float]]] = {"chosen": []}
    for result in found:
        numbers = ratios(result["rows"])
        if "speedup" in numbers:
            curves["chosen"].append((result["n"], numbers["speedup"]))
        for row in result["rows"]:
            name = row["implementation"]
            if f"{name}/speedup" in numbers:
                curves.setdefault(name, []).append((result["n"], numbers[f"{name}/speedup"]))
    for name, points in curves.items():
        if points:
            width, marker = (3, None) if name == "chosen" else (1.2, ".")
            axes.plot(*zip(*points, strict=True), lw=width, marker=marker, label=name)

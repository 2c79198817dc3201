"""Pictures of the recovery experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.config import RecoveryConfig


def draw_errors(config: RecoveryConfig, results: dict[str, dict[str, Any]], path: Path) -> None:
    """RMSE of every seed against the size, one colour a precision, the paper's beside it."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours = {"float32": "tab:blue", "float64": "tab:orange"}
    for dtype in config.dtypes:
        rows = [row for row in results.values() if row["dtype"] == dtype]
        for row in rows:
            positive = [max(value, 1e-18) for value in row["rmse"]]
            axes.scatter([row["n"]] * len(positive), positive, s=12, alpha=0.4, c=colours[dtype])
        best = [min(row["rmse"]) for row in rows]
        axes.plot([row["n"] for row in rows], best, c=colours[dtype], label=f"{dtype}, best seed")
    published = [(n, value) for n in config.sizes if (value := paper.rmse(config.transform, n))]
    if published:
        axes.plot(*zip(*published, strict=True), "k--", label="Dao et al. 2019")
    axes.axhline(paper.RECOVERED_RMSE, c="grey", lw=0.8, ls=":", label="paper: recovered")
    axes.set(xscale="log", yscale="log", xlabel="N", ylabel="RMSE", title=config.experiment)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_heat_maps(
    table: dict[str, list[float | None]],
    baselines: Mapping[str, float],
    sizes: tuple[int, ...],
    path: Path,
) -> None:
    """log10 RMSE by transform and size: this project, the paper, the best plain baseline."""
    ours = [[np.nan if value is None else value for value in row] for row in table.values()]
    published = [[paper.rmse(name, n) or np.nan for n in sizes] for name in table]
    kinds = ("sparse", "low_rank", "sparse_plus_low_rank")
    plain = [
        [min(baselines.get(f"{name}/n{n:04d}/{kind}", np.nan) for kind in kinds) for n in sizes]
        for name in table
    ]
    panels = {
        "structlayers": ours,
        "Dao et al. 2019": published,
        "sparse, low rank or both": plain,
    }
    figure, rows = plt.subplots(1, 3, figsize=(16, 4.6), sharey=True, layout="constrained")
    colours = ScalarMappable(Normalize(-9, 0), "viridis")
    for axes, (title, values) in zip(rows, panels.items(), strict=True):
        cells = np.log10(np.maximum(np.array(values, np.float64), 1e-9))
        axes.imshow(cells, norm=colours.norm, cmap=colours.cmap, aspect="auto")
        for (row, column), value in np.ndenumerate(np.array(values, np.float64)):
            if np.isfinite(value):
                colour = "white" if cells[row, column] < -4 else "black"
                axes.text(column, row, f"{value:.0e}", ha="center", va="center", c=colour, size=7)
        axes.set(title=title, xlabel="N", xticks=range(len(sizes)), yticks=range(len(table)))
        axes.set_xticklabels(sizes)
        axes.set_yticklabels(list(table))
    figure.colorbar(colours, ax=rows, label="log10 RMSE")
    figure.savefig(path, dpi=130)
    plt.close(figure)

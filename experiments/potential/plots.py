"""Parity plots of potentials, and times of their steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.experiment import Results

UNITS = {"force": "force, eV/$\\mathrm{\\AA}$", "energy": "energy, eV"}


def draw_parity(results: Results, path: Path) -> None:
    """Prediction against reference, a row a set and contraction, forces left and energies right.

    Points are of the first seed; the errors in the titles are means over the seeds.
    """
    figure, panels = plt.subplots(
        len(results),
        2,
        figsize=(8, 3.6 * len(results)),
        squeeze=False,
        layout="constrained",
    )
    for row, result in zip(panels, results.values(), strict=True):
        for axes, kind in zip(row, UNITS, strict=True):
            texts, start = [], 0.0
            for name, found in result["tests"].items():
                points = np.array(found["parity"][kind])
                axes.plot(*points.T, ".", markersize=3, alpha=0.5, label=name)
                start = float(points[0, 0])
                texts.append(f"{name} {np.mean(found[f'{kind}_rmse']):.1f}")
            axes.axline((start, start), slope=1, color="grey", linewidth=0.8, zorder=0)
            unit = "meV/$\\mathrm{\\AA}$" if kind == "force" else "meV"
            axes.set_title(
                f"{result['dataset']}, {result['contraction']}\nRMSE {', '.join(texts)} {unit}",
                fontsize=9,
            )
            axes.set(xlabel=f"reference {UNITS[kind]}", ylabel="prediction")
        row[0].legend(fontsize=8, markerscale=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_steps(
    metrics: Mapping[str, Any], lmaxs: Sequence[int], variants: Sequence[str], path: Path
) -> None:
    """Milliseconds of a training step by largest degree, a line a variant."""
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for variant in variants:
        times = [metrics[f"l{lmax}/{variant}/step_milliseconds"] for lmax in lmaxs]
        axes.plot(lmaxs, times, "o-", label=variant)
    axes.set(xlabel="largest degree", ylabel="training step, ms", xticks=lmaxs, yscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)

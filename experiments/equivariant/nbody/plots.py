"""Errors of the products, seed by seed, beside the paper's."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments.experiment import Results


def draw_errors(results: Results, published: Mapping[str, float], path: Path) -> None:
    """Test and validation errors of every seed; a line for each product that the paper has."""
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for place, (product, result) in enumerate(results.items()):
        for name, marker, shift in (("mse", "o", -0.1), ("validation_mse", "x", 0.1)):
            values = result[name]
            label = name.replace("_", " ") if place == 0 else None
            axes.plot([place + shift] * len(values), values, f"C0{marker}", label=label)
        if product in published:
            label = "paper" if place == 0 else None
            ends = [place - 0.3, place + 0.3]
            axes.plot(ends, [published[product]] * 2, color="grey", label=label)
    axes.set_xticks(range(len(results)), list(results))
    axes.set(ylabel="mean squared error", xlim=(-0.5, len(results) - 0.5))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)

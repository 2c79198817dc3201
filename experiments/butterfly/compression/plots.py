"""Picture of the compression experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from experiments.butterfly.compression import paper
from experiments.butterfly.compression.config import CompressionConfig
from experiments.butterfly.compression.methods import METHODS

TITLES = {
    "cifar10_grey": "CIFAR-10 in grey",
    "mnist_bg_rot": "MNIST-bg-rot, rebuilt (the paper's numbers are of the published set)",
    "mnist_noise": "MNIST-noise, rebuilt (the paper's numbers are of the published set)",
}


def draw_accuracies(config: CompressionConfig, metrics: Mapping[str, Any], path: Path) -> None:
    """Bars of mean test accuracy with the spread of the seeds, the paper's beside them."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    places = np.arange(len(config.methods))
    ours = [metrics[f"{method}/test_accuracy"] for method in config.methods]
    spread = [metrics[f"{method}/test_accuracy_std"] for method in config.methods]
    bars = axes.bar(places - 0.2, ours, 0.4, yerr=spread, capsize=3, label="structlayers")
    axes.bar_label(bars, fmt="%.1f", fontsize=8)
    published = [paper.accuracy(method, config.dataset) or np.nan for method in config.methods]
    bars = axes.bar(places + 0.2, published, 0.4, color="lightgrey", label="Dao et al. 2019")
    axes.bar_label(bars, fmt=lambda value: f"{value:.1f}" if np.isfinite(value) else "", fontsize=8)
    names = [
        f"{METHODS[method].label}\n{metrics[f'{method}/compression']:.1f}x"
        for method in config.methods
    ]
    axes.set_xticks(places, names, fontsize=8)
    title = "synthetic images" if config.synthetic else TITLES[config.dataset]
    axes.set(ylabel="test accuracy, %", title=f"Single hidden layer, {title}")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)

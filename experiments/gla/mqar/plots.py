"""Picture of multi-query associative recall."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from experiments.gla.mqar.config import RecallConfig

LABELS = {
    "gla": "gated linear attention",
    "retention": "RetNet",
    "softmax": "softmax attention",
    "fla": "fla's layer",
}


def draw_accuracies(config: RecallConfig, metrics: Mapping[str, Any], path: Path) -> None:
    """Test accuracy against d, a panel a task and a curve a mixer, as Figure 4 of the paper."""
    count = len(config.tasks)
    figure, panels = plt.subplots(
        1, count, figsize=(4.5 * count, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, task in zip(panels[0], config.tasks, strict=True):
        for mixer, marker in zip(config.mixers, "os^d", strict=False):
            keys = [f"{task}/d{d:04d}/{mixer}" for d in config.features]
            values = [100 * metrics[f"{key}/accuracy"] for key in keys]
            spread = [100 * metrics[f"{key}/accuracy_std"] for key in keys]
            axes.errorbar(
                config.features, values, spread, marker=marker, capsize=3, label=LABELS[mixer]
            )
        length, _, pairs = task.partition("/")
        axes.set(title=f"{length} tokens, {pairs} pairs", xlabel="d", xscale="log", ylim=(-2, 102))
        axes.set_xticks(config.features, [str(d) for d in config.features])
        axes.minorticks_off()
    panels[0][0].set_ylabel("accuracy at the queries, %")
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)

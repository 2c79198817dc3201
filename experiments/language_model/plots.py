"""Pictures of the language-modelling experiments."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.experiment import Results
from experiments.language_model.config import LanguageModelRun


def draw(config: LanguageModelRun, results: Results, path: Path) -> None:
    """Losses of training, and beside them the perplexities of the config's texts.

    These are bars for the training and the held-out text or, where longer windows were read, curves
    by place in them.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    _draw_losses(config, results, left)
    if config.test_contexts:
        _draw_places(config, results, right)
    else:
        _draw_bars(config, results, right)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_losses(config: LanguageModelRun, results: Results, axes: Axes) -> None:
    for name, result in results.items():
        curve = result["curve"]
        axes.plot(curve["step"], curve["loss"], marker="o", ms=2, lw=1, label=name)
    axes.set(
        xlabel="steps",
        ylabel=f"training loss, nats a token, mean of {config.chunk} steps",
        title=f"{config.corpus}, {config.batch * config.context} tokens a step",
    )
    axes.legend(fontsize=8)


def _draw_bars(config: LanguageModelRun, results: Results, axes: Axes) -> None:
    places = np.arange(len(results))
    for offset, name in ((-0.2, "train"), (0.2, "valid")):
        values = [result[f"{name}_perplexity"] for result in results.values()]
        bars = axes.bar(places + offset, values, 0.4, label=f"{name} text")
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(places, [name.replace("_", "\n") for name in results], fontsize=8)
    tokens = next(iter(results.values()))["tokens"]
    axes.set(ylabel="perplexity", title=f"{config.corpus}, {tokens / 1e6:.3g} million tokens")
    axes.legend(fontsize=8)


def _draw_places(config: LanguageModelRun, results: Results, axes: Axes) -> None:
    longest = str(max(config.test_contexts))
    width = config.context
    for name, result in results.items():
        values = result["by_place"][longest]
        axes.plot(width * np.arange(1, len(values) + 1), values, marker="o", ms=3, label=name)
    axes.axvline(config.context, color="grey", lw=0.8, ls=":")
    axes.set(
        xlabel="place in the window, tokens",
        ylabel="perplexity",
        title=f"Trained on windows of {config.context} tokens, {config.corpus}",
    )
    axes.legend(fontsize=8)

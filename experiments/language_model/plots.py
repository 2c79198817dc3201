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
    """The training, and held-out perplexity: by place in long windows where those were read."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    _draw_training(left, config, results)
    if config.test_contexts:
        _draw_places(right, config, results)
    else:
        _draw_bars(right, results)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_training(axes: Axes, config: LanguageModelRun, results: Results) -> None:
    """Loss of the batches between two looks and, dotted, of a part of the held-out text."""
    millions = config.batch * config.context / 1e6
    for name, result in results.items():
        curve = result["curve"]
        tokens = millions * np.array(curve["step"])
        (line,) = axes.plot(tokens, curve["loss"], lw=1, label=name.replace("_", " "))
        if "valid_perplexity" in curve:
            axes.plot(tokens, np.log(curve["valid_perplexity"]), lw=1, ls=":", c=line.get_color())
    axes.set(
        xlabel="million tokens",
        ylabel="loss, nats a token (dotted: held out)",
        title=f"Training on {config.corpus}, windows of {config.context} tokens",
    )
    axes.legend(fontsize=8)


def _draw_bars(axes: Axes, results: Results) -> None:
    places = np.arange(len(results))
    for offset, name in ((-0.2, "train"), (0.2, "valid")):
        values = [result[f"{name}_perplexity"] for result in results.values()]
        bars = axes.bar(places + offset, values, 0.4, label=f"{name} text")
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(places, [name.replace("_", "\n") for name in results], fontsize=8)
    tokens = next(iter(results.values()))["tokens"]
    axes.set(ylabel="perplexity", title=f"After {tokens / 1e6:.3g} million tokens")
    axes.legend(fontsize=8)


def _draw_places(axes: Axes, config: LanguageModelRun, results: Results) -> None:
    longest, width = str(max(config.test_contexts)), config.context
    for name, result in results.items():
        values = result["by_place"][longest]
        axes.plot(width * np.arange(1, len(values) + 1), values, marker="o", ms=3, label=name)
    axes.axvline(width, color="grey", lw=0.8, ls=":")
    axes.set(
        xlabel="place in the window, tokens",
        ylabel="perplexity",
        title=f"Windows of {longest} tokens",
    )
    axes.legend(fontsize=8)

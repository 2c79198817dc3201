"""Picture of a speed experiment."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw_times(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a mode: bars of every candidate's time by shape, and a line at the floor."""
    modes = list(dict.fromkeys(result["mode"] for result in results.values()))
    shown = {mode: [r for r in results.values() if r["mode"] == mode] for mode in modes}
    most = max(len(found) for found in shown.values())
    figure, panels = plt.subplots(
        1,
        len(modes),
        figsize=(7 * len(modes), 1.5 + 0.9 * most),
        squeeze=False,
        layout="constrained",
    )
    names = list(
        dict.fromkeys(row["implementation"] for r in results.values() for row in r["rows"])
    )
    height = 0.8 / len(names)
    for axes, (mode, found) in zip(panels[0], shown.items(), strict=True):
        for index, name in enumerate(names):
            points = [
                (place + index * height, 1e6 * row["seconds_median"])
                for place, result in enumerate(found)
                for row in result["rows"]
                if row["implementation"] == name and row["seconds_median"]
            ]
            if points:
                places, times = zip(*points, strict=True)
                axes.barh(places, times, height, color=f"C{index}", label=name)
        for place, result in enumerate(found):
            floor = 1e6 * result["bytes"] / result["ceilings"]["copy"]
            axes.plot([floor] * 2, [place - height / 2, place + 0.8 - height / 2], "k--", lw=1)
        axes.set_yticks(
            [place + 0.4 - height / 2 for place in range(len(found))],
            [result["spec"] for result in found],
            fontsize=7,
        )
        axes.set(title=f"{mode}; dashed: the byte floor", xlabel="microseconds", xscale="log")
        axes.invert_yaxis()
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)

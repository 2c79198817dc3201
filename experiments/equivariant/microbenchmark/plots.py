"""Pictures: time over degree, raw and per degree of freedom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw(
    results: Sequence[Mapping[str, Any]],
    published: Mapping[str, Mapping[str, float]],
    path: Path,
) -> None:
    """One column a panel; below raw times those per degree of freedom, where they are counted.

    Args:
        results: of the cases.
        published: microseconds by key of the case and name of the row; dashed.
        path: PNG file.
    """
    panels = list(dict.fromkeys(result["panel"] for result in results))
    names = list(dict.fromkeys(row["implementation"] for r in results for row in r["rows"]))
    counted = any(row.get("degrees_of_freedom") for r in results for row in r["rows"])
    figure, axes = plt.subplots(
        1 + counted,
        len(panels),
        figsize=(4.2 * len(panels), 3.8 * (1 + counted)),
        squeeze=False,
        layout="constrained",
    )
    for column, panel in zip(axes.T, panels, strict=True):
        shown = [result for result in results if result["panel"] == panel]
        for index, name in enumerate(names):
            style: dict[str, Any] = {
                "color": f"C{index % 10}",
                "marker": "os^vDPX"[index % 7],
                "ms": 4,
            }
            _line(column[0], shown, name, lambda row: 1, {**style, "label": name})
            if counted:
                _line(column[1], shown, name, lambda row: row.get("degrees_of_freedom"), style)
        for index, name in enumerate(dict.fromkeys(n for p in published.values() for n in p)):
            points = [
                (result["at"], published[result["key"]][name])
                for result in shown
                if name in published.get(result["key"], {})
            ]
            if points:
                color = f"C{names.index(name) % 10}" if name in names else f"C{index}"
                label = f"{name}, published"
                column[0].plot(*zip(*points, strict=True), "--", color=color, label=label)
        column[0].set(title=panel, ylabel="us", yscale="log")
        column[-1].set_xlabel(shown[0]["axis"])
        if counted:
            column[1].set(ylabel="us per degree of freedom", yscale="log")
        if column[0].lines:
            column[0].legend(fontsize=6)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(
    axis: Any, results: Sequence[Mapping[str, Any]], name: str, over: Any, style: dict[str, Any]
) -> None:
    points = [
        (result["at"], 1e6 * row["seconds_median"] / over(row))
        for result in results
        for row in result["rows"]
        if row["implementation"] == name and row["seconds_median"] and over(row)
    ]
    if points:
        axis.plot(*zip(*points, strict=True), **style)

"""The picture of a run: drawn whole or not at all."""

import os
import traceback
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment, Plots, Results
from experiments.runner.progress import ProgressDisplay


def draw(
    experiment: Experiment,
    results: Results,
    metrics: dict[str, Any],
    path: Path,
    display: ProgressDisplay,
) -> None:
    """Draws the picture if the experiment has one; a failure is told and costs no numbers."""
    if not isinstance(experiment, Plots):
        return
    os.environ.setdefault("MPLBACKEND", "Agg")
    hidden = path.with_name(f".{path.stem}.tmp.png")
    try:
        experiment.plot(results, metrics, hidden)
        if hidden.exists():
            hidden.replace(path)
    except Exception:
        display.note(f"the picture could not be drawn:\n{traceback.format_exc()}")
        hidden.unlink(missing_ok=True)

"""The recovery experiment: phases, metrics, picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.butterfly.recovery.config import LearnedRecoveryConfig, RecoveryConfig
from experiments.butterfly.recovery.fixed import FixedFit
from experiments.butterfly.recovery.learned import LearnedFit
from experiments.experiment import Phase


@dataclass(frozen=True)
class RecoveryExperiment:
    """One phase per precision and size; the small sizes of every precision first."""

    config: RecoveryConfig

    def phases(self) -> Sequence[Phase]:
        """All fits, by precision, then size."""
        config = self.config
        fits = [(n, dtype) for dtype in config.dtypes for n in config.sizes]
        if isinstance(config, LearnedRecoveryConfig):
            return [LearnedFit(config, n, dtype) for n, dtype in fits]
        return [FixedFit(config, n, dtype) for n, dtype in fits]

    def finish(self, results: dict[str, dict[str, Any]]) -> dict[str, float]:
        """Per size and precision: the best seed's errors, shares of seeds, steps, size."""
        metrics: dict[str, float] = {}
        for result in results.values():
            key = f"n{result['n']:04d}/{result['dtype']}"
            for name, value in summarize(result, self.config).items():
                metrics[f"{key}/{name}"] = value
        return metrics

    def plot(
        self, results: dict[str, dict[str, Any]], metrics: Mapping[str, Any], path: Path
    ) -> None:
        """Errors of all seeds against size, beside the paper's."""
        from experiments.butterfly.recovery.plots import draw_errors

        draw_errors(self.config, results, path)


def summarize(result: dict[str, Any], config: RecoveryConfig) -> dict[str, float]:
    """Numbers of one fit: the best seed, and what a success costs.

    A seed is at the line if its errors are at most the goals of its precision. The cost of a
    success is the Adam steps of all seeds over the seeds at the line.
    """
    rmse, relative = np.array(result["rmse"]), np.array(result["relative_error"])
    to_recovered = np.array(result["steps_to_recovered"])
    to_line = np.array(result["steps_to_line"])
    best = int(np.nanargmin(relative))
    at_line = relative <= result["line"]
    summary = {
        "rmse": float(rmse[best]),
        "relative_error": float(relative[best]),
        "relative_error_median": float(np.median(relative)),
        "seeds": float(len(rmse)),
        "seeds_at_line": float(np.mean(at_line)),
        "seeds_recovered": float(np.mean(to_recovered >= 0)),
        "parameters": float(result["parameters"]),
        "multiplications": float(result["multiplications"]),
    }
    if config.recovery_steps_goal is not None:
        within = (to_recovered >= 0) & (to_recovered <= config.recovery_steps_goal)
        summary[f"seeds_recovered_in_{config.recovery_steps_goal}_steps"] = float(np.mean(within))
    if (to_recovered >= 0).any():
        summary["steps_to_recovered_median"] = float(np.median(to_recovered[to_recovered >= 0]))
    if (to_line >= 0).any():
        summary["steps_to_line_median"] = float(np.median(to_line[to_line >= 0]))
    if at_line.any():
        steps = config.steps + getattr(config, "relax_steps", 0)
        summary["steps_per_success"] = float(steps * len(rmse) / at_line.sum())
    if "exact_permutations" in result:
        summary["exact_permutations"] = float(result["exact_permutations"])
    return summary

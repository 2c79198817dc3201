"""The speed experiment: a phase a shape and mode, measured by `experiments.bench`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.bench.measure import Effort
from experiments.bench.modes import Mode
from experiments.bench.phase import MeasuredPhase, ceilings, measure_spec
from experiments.bench.registry import find_operation
from experiments.experiment import Results
from experiments.gla.speed.config import SpeedConfig
from experiments.gla.speed.floors import floor_bytes, held_bytes, state_bytes
from structlayers._core.arg_spec import ArgSpec

# Metric to the rivals of which the fastest is divided by the chosen implementation's time.
_RATIOS = {
    "over_cudnn": ("cudnn_attention", "cudnn_attention_128"),
    "over_xla_attention": ("xla_attention",),
    "over_fla": ("fla",),
    "over_xla": ("xla",),
}


@dataclass(frozen=True)
class Measure(MeasuredPhase):
    """All candidates at one shape in one mode."""

    config: SpeedConfig
    spec: ArgSpec
    mode: Mode

    @property
    @override
    def key(self) -> str:
        """E.g. "gla_b8_t2048_h4_k128_v256_bfloat16/forward"."""
        return f"{self.spec.name}/{self.mode}"

    @override
    def measure(self) -> Iterator[dict[str, Any]]:
        """All candidates."""
        config = self.config
        return measure_spec(
            self.spec,
            self.mode,
            config.candidates,
            Effort(config.repeats, config.sample_seconds, config.timer),
            ceilings(),
            f"python -m experiments run configs/gla/{config.experiment}.py",
            compare=config.compare,
        )

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The rows, and what they are held against."""
        del state
        result, _ = find_operation(self.spec.op).trace(self.spec, None)
        memory = {}
        if self.mode == "forward_backward":
            memory = {"held": held_bytes(self.spec, result), "states": state_bytes(self.spec)}
        return {
            "key": self.key,
            "spec": self.spec.name,
            "mode": self.mode,
            "bytes": floor_bytes(self.spec, result, self.mode),
            **memory,
            "rows": self.rows,
            "ceilings": ceilings(),
        }


@dataclass(frozen=True)
class SpeedExperiment:
    """A phase a shape and mode."""

    config: SpeedConfig

    def phases(self) -> Sequence[Measure]:
        """Shape by shape."""
        return [Measure(self.config, spec, mode) for spec, mode in self.config.cells()]

    def finish(self, results: Results) -> dict[str, float]:
        """Times, shares and ratios of every shape and mode."""
        return {
            f"{result['key']}/{name}": value
            for result in results.values()
            for name, value in ratios(result).items()
        }

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Times of all candidates beside the floors."""
        from experiments.bench.plots import draw_times

        draw_times(results, path)


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one shape and mode.

    The chosen implementation is the one that the op runs by itself; one that failed, or was too
    short to time, has NaN.

    - `us`: microseconds of the chosen implementation; `NAME/us`: of every candidate.
    - `share`: time to move the floor's bytes at the rate of a copy, over the chosen one's time.
    - `temporaries_over_states`: with the backward pass, what it holds beside inputs and results,
      over the bytes of the chunks' states in bfloat16.
    - `over_...`: a rival's time over the chosen one's; of cuDNN's attention the faster form's.

    Example:
        >>> rows = [
        ...     {"implementation": "xla", "chosen": True, "seconds_median": 2e-6},
        ...     {"implementation": "cudnn_attention", "chosen": False, "seconds_median": 6e-6},
        ... ]
        >>> found = ratios({"rows": rows, "bytes": 4000, "ceilings": {"copy": 4e9}})
        >>> found["share"], found["over_cudnn"]
        (0.5, 3.0)
    """
    seconds = {row["implementation"]: row["seconds_median"] or math.nan for row in result["rows"]}
    metrics = {f"{name}/us": 1e6 * value for name, value in seconds.items()}
    chosen = next((row for row in result["rows"] if row["chosen"]), None)
    if chosen is None:
        return metrics
    own = seconds[chosen["implementation"]]
    metrics |= {"us": 1e6 * own, "share": result["bytes"] / result["ceilings"]["copy"] / own}
    if "states" in result and chosen["peak_bytes"] is not None:
        temporaries = chosen["peak_bytes"] - result["held"]
        metrics["temporaries_over_states"] = temporaries / result["states"]
    for name, rivals in _RATIOS.items():
        times = [seconds[rival] for rival in rivals if math.isfinite(seconds.get(rival, math.nan))]
        if times:
            metrics[name] = min(times) / own
    return metrics

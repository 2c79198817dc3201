"""The speed experiment: a phase a shape, mode and precision, measured by `experiments.bench`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.bench.measure import Effort
from experiments.bench.phase import MeasuredPhase, ceilings, measure_spec
from experiments.bench.registry import find_operation
from experiments.equivariant.speed.config import Cell, SpeedConfig
from experiments.equivariant.speed.floors import floor_of
from experiments.experiment import Results
from structlayers._core.arg_spec import ArgSpec


@dataclass(frozen=True)
class Measure(MeasuredPhase):
    """All candidates in one cell."""

    config: SpeedConfig
    cell: Cell

    @property
    @override
    def key(self) -> str:
        """E.g. "gaunt_l4_l4_l4_b100000x128_float32/tf32/forward"."""
        return f"{self.cell.spec.name}/{self.cell.precision}/{self.cell.mode}"

    @property
    def spec(self) -> ArgSpec:
        """The shapes, at this precision."""
        spec = self.cell.spec
        return replace(spec, static={**spec.static, "precision": self.cell.precision})

    @override
    def measure(self) -> Iterator[dict[str, Any]]:
        """All candidates."""
        config = self.config
        return measure_spec(
            self.spec,
            self.cell.mode,
            config.candidates,
            Effort(config.repeats, config.sample_seconds, config.timer),
            ceilings(),
            f"python -m experiments run configs/equivariant/{config.experiment}.py",
            compare=False,  # op_numerics compares
        )

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The rows, and what they are held against."""
        del state
        result, _ = find_operation(self.spec.op).trace(self.spec, None)
        floor = floor_of(self.spec, result, self.cell.mode, self.cell.precision)
        return {
            "key": self.key,
            "spec": f"{self.spec.name} {self.cell.precision}",
            "mode": self.cell.mode,
            "bytes": floor.bytes,
            "products": floor.products,
            "floor_seconds": floor.seconds(ceilings()),
            "rows": self.rows,
            "ceilings": ceilings(),
        }


@dataclass(frozen=True)
class SpeedExperiment:
    """A phase a cell."""

    config: SpeedConfig

    def phases(self) -> Sequence[Measure]:
        """Cell by cell."""
        return [Measure(self.config, cell) for cell in self.config.cells()]

    def finish(self, results: Results) -> dict[str, float]:
        """Times, shares and ratios of every cell."""
        metrics = {
            f"{result['key']}/{name}": value
            for result in results.values()
            for name, value in ratios(result).items()
        }
        return metrics | backward_over_forward(metrics)

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Times of all candidates beside the floors."""
        from experiments.bench.plots import draw_times

        draw_times(results, path)


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one cell.

    - `us`, `share`: microseconds of the kernel for GPUs where it is measured, else of what the op
      chooses, and the floor's time over it; `chosen/us`, `NAME/us`: of every candidate.
    - `memory`: arguments, results and temporaries of the former over the floor's bytes.
    - `over_NAME`: a candidate's time over the former.
    - `chosen_over_best`: time of what the op chooses over that of the fastest.

    One that failed, or was too short to time, has NaN.

    Example:
        >>> rows = [
        ...     {"implementation": "xla", "chosen": True, "seconds_median": 6e-6},
        ...     {"implementation": "pallas_gpu", "chosen": False, "seconds_median": 2e-6},
        ... ]
        >>> found = ratios({"rows": rows, "floor_seconds": 1e-6, "bytes": 8})
        >>> found["share"], found["over_xla"], found["chosen_over_best"]
        (0.5, 3.0, 3.0)
    """
    rows = result["rows"]
    seconds = {row["implementation"]: row["seconds_median"] or math.nan for row in rows}
    metrics = {f"{name}/us": 1e6 * value for name, value in seconds.items()}
    chosen = next((seconds[row["implementation"]] for row in rows if row["chosen"]), math.nan)
    own = seconds.get("pallas_gpu", chosen)
    peak = next(
        (row.get("peak_bytes") for row in rows if own == seconds[row["implementation"]]), None
    )
    finite = [value for value in seconds.values() if math.isfinite(value)]
    metrics |= {
        "us": 1e6 * own,
        "share": result["floor_seconds"] / own,
        "memory": (peak or math.nan) / result["bytes"],
        "chosen/us": 1e6 * chosen,
        "chosen_over_best": chosen / min(finite, default=math.nan),
    }
    for name, value in seconds.items():
        if name != "pallas_gpu" and math.isfinite(value):
            metrics[f"over_{name}"] = value / own
    return metrics


def backward_over_forward(metrics: Mapping[str, float]) -> dict[str, float]:
    """Time of the backward pass over that of the forward pass, where both modes were measured.

    Example:
        >>> times = {"a/tf32/forward/us": 2.0, "a/tf32/forward_backward/us": 5.0}
        >>> backward_over_forward(times)
        {'a/tf32/backward_over_forward': 1.5}
    """
    found = {}
    for name, both in metrics.items():
        start, end, _ = name.partition("/forward_backward/us")
        forward = metrics.get(f"{start}/forward/us")
        if end and forward is not None:
            found[f"{start}/backward_over_forward"] = (both - forward) / forward
    return found

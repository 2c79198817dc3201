"""The speed experiment: a phase a sweep and size, measured by `experiments.bench`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import numpy as np

from experiments.bench import runner
from experiments.bench.measure import Effort
from experiments.bench.phase import KEPT, MeasuredPhase, ceilings
from experiments.bench.registry import Operation, find_operation
from experiments.bench.rivals import find_rivals, select_rivals
from experiments.butterfly.speed.config import SpeedConfig, Sweep
from experiments.butterfly.speed.host import host_seconds
from experiments.experiment import Results
from structlayers._core.arg_spec import ArgSpec
from structlayers.butterfly.arg_specs import multiply_spec

_LARGE = 2048  # from this size on a butterfly is to beat a dense product anywhere

# Metric to the rival whose time is divided by that of the chosen implementation.
_RATIOS = {
    "speedup": "matmul",
    "speedup_over_tf32": "matmul_tf32",
    "speedup_over_stage_loop": "stage_loop",
    "speedup_over_two_matmuls": "two_matmuls",
    "speedup_over_fft": "fft",
    "speedup_over_copy": "copy",
    "speedup_over_numpy_matmul": "numpy_matmul",
    "speedup_over_numpy_fft": "numpy_fft",
}


@dataclass(frozen=True)
class Measure(MeasuredPhase):
    """All candidates at one size: every implementation that can serve, and the rivals."""

    config: SpeedConfig
    sweep: Sweep
    n: int

    @property
    @override
    def key(self) -> str:
        """E.g. "float32/b256/n01024/forward"."""
        return self.sweep.key(self.n)

    @property
    def spec(self) -> ArgSpec:
        """The shapes."""
        return multiply_spec(self.n, self.sweep.batch, self.sweep.dtype)

    def implementations(self, operation: Operation) -> tuple[str, ...]:
        """Names to measure: all but the reference, and "dense" only where it is of use."""
        _, choice = operation.trace(self.spec, None)
        chosen = choice.name if choice else None
        return tuple(
            name
            for name in operation.implementations()
            if name == chosen
            or (
                name != "reference" and (name != "dense" or self.n <= self.config.materialize_up_to)
            )
        )

    @override
    def measure(self) -> Iterator[dict[str, Any]]:
        """All candidates."""
        config = self.config
        operation = find_operation("butterfly_multiply")
        found = find_rivals(operation.family, operation.name)
        plan = runner.Plan(
            operation,
            (self.spec,),
            (self.sweep.mode,),
            self.implementations(operation),
            select_rivals(found, config.rivals),
            Effort(config.repeats, config.sample_seconds, config.timer),
            ceilings(),
            f"python -m experiments run configs/butterfly/{config.experiment}.py",
            compare=config.compare,
        )
        for row in runner.run(plan):
            copy_seconds = row.bytes / row.ceilings["copy"]
            kept = {name: getattr(row, name) for name in KEPT}
            yield {**kept, "copy_seconds": copy_seconds}
        if config.host and self.sweep.mode == "forward":
            for name, value in host_seconds(self.n, self.sweep.batch, config.repeats).items():
                yield {
                    "implementation": name,
                    "kind": "host",
                    "chosen": False,
                    "seconds_median": value,
                }

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The rows, and where they belong."""
        del state
        return {
            "sweep": f"{self.sweep.dtype}/b{self.sweep.batch}/{self.sweep.mode}",
            "n": self.n,
            "key": self.key,
            "rows": self.rows,
            "ceilings": ceilings(),
        }


@dataclass(frozen=True)
class SpeedExperiment:
    """A phase a sweep and size."""

    config: SpeedConfig

    def phases(self) -> Sequence[Measure]:
        """Sweep by sweep."""
        return [
            Measure(self.config, Sweep.parse(name), n)
            for name in self.config.sweeps
            for n in self.config.sizes
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """Ratios and shares of every size, and the worst of them against the dense product."""
        metrics: dict[str, float] = {}
        large: dict[str, list[float]] = {}
        for result in results.values():
            found = ratios(result["rows"])
            metrics |= {f"{result['key']}/{name}": value for name, value in found.items()}
            if "speedup" in found:
                large.setdefault("all", []).append(found["speedup"])
                if result["n"] >= _LARGE:
                    large.setdefault(result["sweep"], []).append(found["speedup"])
        # NumPy's minimum is NaN where one of them is
        lowest = {name: float(np.min(values)) for name, values in large.items()}
        if "all" in lowest:
            metrics["times_dense_max"] = 1 / lowest.pop("all")
        return metrics | {f"{k}/speedup_min_from_n{_LARGE:05d}": v for k, v in lowest.items()}

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Speed-ups by size, the paper's beside them."""
        from experiments.butterfly.speed.plots import draw_speedups

        draw_speedups(self.config, results, path)


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of one size, from its rows.

    The chosen implementation is the one that the op runs by itself; one that failed, or was too
    short to time, has NaN.

    - `speedup`: time of the dense product at the same precision over the chosen one's;
      `speedup_over_...`: the same of other rivals; `speedup_low`: by the 90th percentile of the
      chosen one's samples and the 10th of the dense product's.
    - `copy_share`: time to copy the op's inputs and results once over the chosen one's.
    - `NAME/speedup`: of every implementation and rival over the dense product.
    - `NAME/us`: microseconds.

    Example:
        >>> rows = [
        ...     {"implementation": "xla", "chosen": True, "seconds_median": 2e-6},
        ...     {"implementation": "matmul", "chosen": False, "seconds_median": 6e-6},
        ... ]
        >>> ratios(rows)["speedup"], ratios(rows)["xla/us"]
        (3.0, 2.0)
    """
    seconds = {row["implementation"]: row["seconds_median"] or math.nan for row in rows}
    metrics = {f"{name}/us": 1e6 * value for name, value in seconds.items()}
    dense = seconds.get("matmul")
    if dense is not None:
        metrics |= {
            f"{name}/speedup": dense / value for name, value in seconds.items() if name != "matmul"
        }
    chosen = next((row for row in rows if row["chosen"]), None)
    if chosen is None:
        return metrics
    own = seconds[chosen["implementation"]]
    metrics |= {ratio: seconds[rival] / own for ratio, rival in _RATIOS.items() if rival in seconds}
    spreads = {row["implementation"]: row.get("spread") for row in rows}
    mine, matmul = spreads[chosen["implementation"]], spreads.get("matmul")
    if mine and matmul:
        metrics["speedup_low"] = matmul["p10"] / mine["p90"]
    if "copy_seconds" in chosen:
        metrics["copy_share"] = chosen["copy_seconds"] / own
    return metrics

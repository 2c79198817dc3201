"""Errors of the Gaunt products against exact coefficients, their symmetries, and what they refuse.

Standard normal coefficients, signed. The oracle is the table of Gaunt coefficients, built from 3j
symbols by integer arithmetic, in float64 by NumPy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.equivariant.op_numerics.exactness import (
    derivative_cases,
    exact_cases,
    other_cases,
)
from experiments.equivariant.op_numerics.rounding import kernel_cases, rounding_cases
from experiments.equivariant.op_numerics.rules import rule_cases
from experiments.equivariant.op_numerics.signals import Measurement
from experiments.experiment import Phase, Results

PARTS = ("exactness", "derivatives", "others", "rounding", "kernel", "rules")
"""Phases: values, derivatives and other products in float64, rounding of what the op chooses and of
the kernel for Hopper GPUs, what must be exact or refused."""

_PREFIX = {"exactness": "float64/", "derivatives": "float64/", "others": "float64/"}


@dataclass(frozen=True)
class MeasurePhase:
    """One measurement a step.

    Attributes:
        name: of the phase.
        cases: name of a case, and the measurement.
        notes: of cases, what ran, or why nothing did.
    """

    name: str
    cases: Mapping[str, Measurement]
    notes: Mapping[str, str] = field(default_factory=dict)
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failure shows in the metrics
    _found: dict[str, dict[str, float]] = field(default_factory=dict, init=False, compare=False)

    @property
    def num_steps(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def init(self) -> dict[str, np.ndarray]:
        """Steps so far; the values stand in `host_state`."""
        self._found.clear()
        return {"steps": np.zeros((), np.int64)}

    def host_state(self) -> dict[str, Any]:
        """By case and name the values."""
        return {"found": {case: dict(values) for case, values in self._found.items()}}

    def set_host_state(self, state: dict[str, Any]) -> None:
        """Takes the values back."""
        self._found.clear()
        self._found.update(state["found"])

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Measures the next cases."""
        logged: dict[str, float] = {}
        for case, measure in list(self.cases.items())[step : step + num]:
            self._found[case] = logged = dict(measure())
        return {"steps": np.array(state["steps"] + num)}, logged

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By case and name the values, and what ran."""
        del state
        return {
            case: values | ({"ran": self.notes[case]} if case in self.notes else {})
            for case, values in self.host_state()["found"].items()
        }


@dataclass(frozen=True)
class OpNumerics:
    """Exactness, derivatives, rounding, and rules.

    Attributes:
        lmax: of L1 and L2, every L3 up to their sum, in float64.
        derivative_degrees: L at which derivatives are compared.
        rounding_degrees: L of float32.
        grid_degree: T up to which small grids are tried.
        kernel_rows: rows of the kernel.
        forms: some of `FORMS`.
        precisions: some of `PRECISIONS`.
        parts: some of `PARTS`.
    """

    lmax: int
    derivative_degrees: tuple[int, ...]
    rounding_degrees: tuple[int, ...]
    grid_degree: int
    kernel_rows: int
    forms: tuple[str, ...]
    precisions: tuple[str, ...]
    parts: tuple[str, ...]

    def phases(self) -> Sequence[Phase]:
        """Measurements by kind."""
        degrees, forms = self.rounding_degrees, self.forms
        every = [
            MeasurePhase("exactness", exact_cases(self.lmax, forms)),
            MeasurePhase("derivatives", derivative_cases(self.derivative_degrees, forms)),
            MeasurePhase("others", other_cases(self.lmax, forms)),
            MeasurePhase("rounding", *rounding_cases(self.precisions, degrees)),
            MeasurePhase("kernel", *kernel_cases(self.precisions, degrees, self.kernel_rows)),
            MeasurePhase("rules", rule_cases(self.lmax, self.grid_degree, degrees, forms)),
        ]
        return [phase for phase in every if phase.name in self.parts]

    def finish(self, results: Results) -> dict[str, float]:
        """The largest value of every name: `float64/FORM`, `PRECISION/OUTPUT`, rules.

        Those of the kernel are `kernel/PRECISION/OUTPUT`. Grids that were tried are counted.
        """
        metrics: dict[str, float] = {}
        for phase, cases in results.items():
            for case, values in cases.items():
                prefix = _PREFIX.get(phase, "")
                if phase in ("rounding", "kernel"):
                    prefix = ("kernel/" if phase == "kernel" else "") + case.split("_")[0] + "/"
                for name, value in values.items():
                    if name == "ran":
                        continue
                    known = metrics.get(prefix + name)
                    if known is None:
                        metrics[prefix + name] = float(value)
                    elif name == "small_grids_tried":
                        metrics[prefix + name] = known + float(value)
                    else:
                        metrics[prefix + name] = float(np.maximum(known, float(value)))
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Errors of values by degree for every precision, and those of equivariance."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del metrics
        figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
        for phase, marker in (("rounding", "o"), ("kernel", "s")):
            for number, precision in enumerate(self.precisions):
                for name, line in (("values", "-"), ("gradient_equivariance", ":")):
                    cases = {n: f"{precision}_{n}" for n in self.rounding_degrees}
                    points = [
                        (n, results[phase][case][name])
                        for n, case in cases.items()
                        if name in results.get(phase, {}).get(case, {})
                    ]
                    if points:
                        label = f"{phase}, {precision}, {name.replace('_', ' ')}"
                        style = {"color": f"C{number}", "label": label}
                        axes.plot(*zip(*points, strict=True), line + marker, **style)
        axes.set(yscale="log", xlabel="L", ylabel="relative error")
        if axes.lines:
            axes.legend(fontsize=7)
        figure.savefig(path, dpi=130)
        plt.close(figure)

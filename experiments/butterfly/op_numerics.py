"""Rounding of `butterfly_multiply`: result and gradients against the float64 reference, by size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.bench.inputs import make_arrays
from experiments.bench.modes import with_gradients
from experiments.bench.oracle import Oracle, mask_cotangent
from experiments.bench.registry import find_operation
from experiments.bench.runner import make_job
from experiments.experiment import Phase, Results
from structlayers.butterfly.arg_specs import multiply_spec

REFUSED = math.nan  # in the state, where an implementation cannot serve a size


def op_errors(
    n: int, batch: int, dtype: str, materialize_up_to: int
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Errors of every implementation that can serve one size.

    Args:
        n: size.
        batch: number of vectors.
        dtype: of the vectors.
        materialize_up_to: implementation "dense" is left out above this size.

    Returns:
        Name of the implementation that the op chooses, and by name the relative RMS error of the
        result and the largest one of the result and the gradients of vectors and weights.
    """
    operation = find_operation("butterfly_multiply")
    spec = multiply_spec(n, batch, dtype)
    job = make_job(operation, spec, "forward_backward")
    assert isinstance(job.oracle, Oracle)
    arrays = make_arrays(spec, operation.make_inputs)
    cotangent = mask_cotangent(job.cotangent, job.oracle.rows)
    _, choice = operation.trace(spec, None)
    assert choice is not None
    found: dict[str, tuple[float, float]] = {}
    for name in operation.implementations():
        if name == "reference" or (name == "dense" and n > materialize_up_to):
            continue
        try:
            operation.trace(spec, name)
        except NotImplementedError:
            continue
        value = jax.jit(with_gradients(operation.bind(spec, name)))(*arrays, cotangent)
        found[name] = (job.oracle.result_error(value[0]), job.oracle.error(value))
    return choice.name, found


@dataclass(frozen=True)
class NumericsPhase:
    """One precision, one size a step.

    Attributes:
        dtype: of the vectors.
        sizes: the sizes, one a step.
        batch: number of vectors.
        materialize_up_to: see `op_errors`.
    """

    dtype: str
    sizes: tuple[int, ...]
    batch: int
    materialize_up_to: int
    chunk: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # REFUSED; a failure shows in the metrics

    @property
    def name(self) -> str:
        """The precision."""
        return self.dtype

    @property
    def num_steps(self) -> int:
        """Number of sizes."""
        return len(self.sizes)

    @property
    def implementations(self) -> tuple[str, ...]:
        """All but the reference, and what the op chooses by itself."""
        names = find_operation("butterfly_multiply").implementations()
        return (*(name for name in names if name != "reference"), "chosen")

    def init(self) -> dict[str, np.ndarray]:
        """Errors to be filled in: (sizes, implementations), forward and with gradients."""
        shape = (2, len(self.sizes), len(self.implementations))
        return {"errors": np.full(shape, REFUSED), "served": np.zeros(shape[1:], bool)}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Compares at the next sizes."""
        errors, served = np.array(state["errors"]), np.array(state["served"])
        for index in range(step, step + num):
            chosen, found = op_errors(
                self.sizes[index], self.batch, self.dtype, self.materialize_up_to
            )
            if chosen in found:
                found["chosen"] = found[chosen]
            for column, name in enumerate(self.implementations):
                if name in found:
                    errors[:, index, column] = found[name]
                    served[index, column] = True
        last = step + num - 1
        logged = {"n": float(self.sizes[last]), "chosen": float(errors[1, last, -1])}
        return {"errors": errors, "served": served}, logged

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """By implementation and size: error of the result, and the largest with the gradients."""
        errors, served = np.asarray(state["errors"]), np.asarray(state["served"])
        return {
            name: {
                str(n): {"forward": errors[0, row, column], "gradients": errors[1, row, column]}
                for row, n in enumerate(self.sizes)
                if served[row, column]
            }
            for column, name in enumerate(self.implementations)
        }


@dataclass(frozen=True)
class OpNumerics:
    """A phase a precision.

    Attributes:
        dtypes: of the vectors.
        sizes: sizes N.
        batch: number of vectors.
        materialize_up_to: see `op_errors`.
    """

    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    batch: int
    materialize_up_to: int

    def phases(self) -> Sequence[Phase]:
        """By precision."""
        return [
            NumericsPhase(dtype, self.sizes, self.batch, self.materialize_up_to)
            for dtype in self.dtypes
        ]

    def finish(self, results: Results) -> dict[str, float]:
        """`DTYPE/IMPLEMENTATION/forward` and `/gradients`: the largest over the sizes.

        "chosen" is what the op runs by itself, "worst" the largest of all implementations.
        """
        metrics: dict[str, float] = {}
        for dtype, by_name in results.items():
            worst: dict[str, list[float]] = {"forward": [], "gradients": []}
            for name, by_size in by_name.items():
                for kind, seen in worst.items():
                    values = [float(errors[kind]) for errors in by_size.values()]
                    if values:
                        metrics[f"{dtype}/{name}/{kind}"] = float(np.max(values))
                        seen += values
            for kind, seen in worst.items():
                metrics[f"{dtype}/worst/{kind}"] = float(np.max(seen))
        return metrics

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Any) -> None:
        """Errors of what the op chooses against the size."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        del metrics
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for dtype, by_name in results.items():
            for name, by_size in by_name.items():
                if by_size and name != "chosen":
                    values = [float(errors["gradients"]) for errors in by_size.values()]
                    sizes = [int(n) for n in by_size]
                    axes.plot(sizes, values, marker=".", label=f"{dtype}, {name}")
        axes.set(xlabel="N", ylabel="relative error, result and gradients", yscale="log")
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)

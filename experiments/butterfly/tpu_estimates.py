"""Butterfly product against the dense matrix product on TPU, by what the TPU compilers estimate.

No TPU takes part: libtpu compiles ahead of time. The butterfly is the whole program, its kernel
by its schedule and the merging of the twiddle by XLA's own estimate; the dense product is given its
matrix, and is XLA's own estimate. Every figure is a compiled estimate, none is measured.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import CommandError
from experiments.experiment import Results, Scalars
from structlayers.butterfly import butterfly_multiply, twiddle_shape
from structlayers.testing.tpu import (
    TARGETS,
    GateRow,
    TpuCompiler,
    TpuCompilerUnavailableError,
    missing_compiler,
)

GENERATIONS = tuple(TARGETS)
MODES = ("forward", "forward_and_backward")
COLUMNS = ("butterfly", "kernels", "dense", "bytes")
# Arrays of the batch that each mode reads and writes: x, y; then dy, x and dx as well.
_ARRAYS = {"forward": 2, "forward_and_backward": 5}
# Seconds beyond any product here: XLA writes the largest integer where it has no estimate.
_LONGEST = 1e3

_multiply = functools.partial(butterfly_multiply, implementation="pallas_tpu")


def forward(x: jax.Array, twiddle: jax.Array) -> jax.Array:
    """The butterfly product, for the compiler."""
    return _multiply(x, twiddle)


def forward_and_backward(x: jax.Array, twiddle: jax.Array) -> Any:
    """The product and its gradients, pulled back along its own value."""
    out, pull = jax.vjp(_multiply, x, twiddle)
    return pull(out)


def dense_forward(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product with a given matrix, float32 as precise as the butterfly's."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, matrix, precision=precision)


def dense_forward_and_backward(x: jax.Array, matrix: jax.Array) -> Any:
    """The same with its gradients."""
    out, pull = jax.vjp(dense_forward, x, matrix)
    return pull(out)


@dataclass(frozen=True)
class EstimatePhase:
    """One size, dtype and mode; one TPU generation a step.

    Attributes:
        n: transform size.
        batch: rows.
        dtype: of the data.
        mode: one of MODES.
        targets: TPU generations.
    """

    n: int
    batch: int
    dtype: str
    mode: str
    targets: tuple[str, ...]
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # NaN where a generation is not served

    @property
    def name(self) -> str:
        """Mode, dtype and size."""
        return f"{self.mode}_{self.dtype}_n{self.n}"

    @property
    def num_steps(self) -> int:
        """One a generation."""
        return len(self.targets)

    @property
    def chunk(self) -> int:
        """All at once: they share a compiler."""
        return len(self.targets)

    def init(self) -> np.ndarray:
        """No estimates: ``(targets, COLUMNS)``, in seconds."""
        return np.full((len(self.targets), len(COLUMNS)), np.nan)

    def advance(self, state: np.ndarray, step: int, num: int) -> tuple[np.ndarray, Scalars]:
        """Compiles both products for `num` generations.

        Raises:
            CommandError: there is no TPU compiler here, or it refuses a program.
        """
        if reason := missing_compiler():
            raise CommandError(reason)
        x = jax.ShapeDtypeStruct((self.batch, self.n), self.dtype)
        twiddle = jax.ShapeDtypeStruct(twiddle_shape(self.n), "float32")
        matrix = jax.ShapeDtypeStruct((self.n, self.n), self.dtype)
        state = state.copy()
        try:
            with TpuCompiler(timeout=600) as compiler:
                for index in range(step, step + num):
                    target = (self.targets[index],)
                    here = f"{__name__}:"
                    (butterfly,) = compiler.compile(here + self.mode, x, twiddle, targets=target)
                    (dense,) = compiler.compile(
                        f"{here}dense_{self.mode}", x, matrix, targets=target
                    )
                    state[index] = self._columns(butterfly, dense)
        except TpuCompilerUnavailableError as error:
            raise CommandError(str(error)) from error
        speedup = state[:, COLUMNS.index("dense")] / state[:, COLUMNS.index("butterfly")]
        return state, {
            f"speedup.{target}": speedup[index]
            for index, target in enumerate(self.targets[step : step + num], start=step)
        }

    def _columns(self, butterfly: GateRow, dense: GateRow) -> tuple[float, ...]:
        """Seconds of one generation; NaN for the butterfly where its kernel does not serve."""
        for row in (butterfly, dense):
            refused = row is butterfly and "cannot serve" in (row.error or "")
            if not row.compiled and not refused:
                raise CommandError(f"{self.name} on {row.target}: {row.error}")
        transfer = self.batch * self.n * np.dtype(jnp.dtype(self.dtype)).itemsize
        return (
            _whole(butterfly),
            np.nan if butterfly.estimated_seconds is None else butterfly.estimated_seconds,
            _whole(dense),
            _ARRAYS[self.mode] * transfer / TARGETS[dense.target].bandwidth,
        )

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """Seconds by generation and column, None where the kernel does not serve."""
        return {
            target: {
                column: float(value) if np.isfinite(value) else None
                for column, value in zip(COLUMNS, row, strict=True)
            }
            for target, row in zip(self.targets, state, strict=True)
        }


def _whole(row: GateRow) -> float:
    """Kernels and the instructions of XLA around them; NaN where there is no estimate."""
    if row.xla_estimated_seconds is None:
        return np.nan
    return (row.estimated_seconds or 0.0) + row.xla_estimated_seconds


@dataclass(frozen=True)
class TpuEstimates:
    """Estimates over sizes, dtypes, modes and generations.

    Attributes:
        sizes: transform sizes of each of MODES.
        batch: rows.
        dtypes: of the data.
        targets: TPU generations.
    """

    sizes: Mapping[str, tuple[int, ...]]
    batch: int
    dtypes: tuple[str, ...]
    targets: tuple[str, ...]

    def phases(self) -> Sequence[EstimatePhase]:
        """One for each mode, dtype and size."""
        return [
            EstimatePhase(n, self.batch, dtype, mode, self.targets)
            for mode, sizes in self.sizes.items()
            for dtype in self.dtypes
            for n in sizes
        ]

    def finish(self, results: Results) -> dict[str, Any]:
        """The smallest speedup over the sizes that are served, of every mode, dtype, generation.

        ``over_bytes`` is the largest multiple that the kernels take of the time of the transfers
        of the data alone; ``refused`` counts sizes that are not served, ``unknown`` those for which
        XLA has no estimate of the dense product.
        """
        metrics: dict[str, Any] = {}
        refused = unknown = 0
        for mode, sizes in self.sizes.items():
            for dtype in self.dtypes:
                for target in self.targets:
                    rows = [results[f"{mode}_{dtype}_n{n}"][target] for n in sizes]
                    served = [row for row in rows if row["butterfly"] is not None]
                    refused += len(rows) - len(served)
                    speedups = [
                        row["dense"] / row["butterfly"]
                        for row in served
                        if row["dense"] is not None and row["dense"] < _LONGEST
                    ]
                    unknown += len(served) - len(speedups)
                    name = f"{mode}/{dtype}/{target}"
                    if speedups:
                        metrics[f"{name}/min_speedup"] = min(speedups)
                        metrics[f"{name}/max_speedup"] = max(speedups)
                    if served:
                        multiples = [row["kernels"] / row["bytes"] for row in served]
                        metrics[f"{name}/over_bytes"] = max(multiples)
        return {**metrics, "refused": refused, "unknown": unknown}

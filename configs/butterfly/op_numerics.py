"""Rounding of the butterfly product and of its gradients, every implementation, N = 2 .. 16384.

What: relative RMS error of `butterfly_multiply` against the reference in float64 on the CPU, of the
result and of the gradients of vectors and weights, on standard normal inputs; the largest over the
sizes is the metric. Runs on any device, and measures what its platform offers. Float32 is
multiplied at precision "highest"; bfloat16 vectors come with float32 weights.

Paper: Dao et al. 2019, arXiv:1903.05895, section 3.2; the code published with it tests at 1e-3.
Expected: at most 2e-6 in float32 and complex64, 1e-2 in bfloat16.
Hardware: any; 3 minutes on a 2-core CPU.
Command: python -m experiments run configs/butterfly/op_numerics.py
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.butterfly.op_numerics import OpNumerics
from experiments.experiment import Goal

_LIMITS = {"float32": 2e-6, "complex64": 2e-6, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Config:
    """Which precisions and sizes."""

    family: str = "butterfly"
    experiment: str = "op_numerics"
    dtypes: tuple[str, ...] = tuple(_LIMITS)
    """Dtypes of the vectors."""
    sizes: tuple[int, ...] = tuple(2**level for level in range(1, 15))
    """Sizes N, powers of two."""
    batch: int = 100
    """Number of vectors."""
    materialize_up_to: int = 2048
    """Largest size at which implementation "dense" makes its matrix."""

    def __post_init__(self) -> None:
        """Refuses names and sizes that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for dtype in self.dtypes:
            if dtype not in _LIMITS:
                raise ValueError(f"dtypes must be among {', '.join(_LIMITS)}; got {dtype!r}")
        for n in self.sizes:
            if n < 2 or n & (n - 1):
                raise ValueError(f"sizes must be powers of two, at least 2; got {n}")
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, got {self.batch}")

    def build(self) -> OpNumerics:
        """One phase a precision."""
        return OpNumerics(self.dtypes, self.sizes, self.batch, self.materialize_up_to)

    def goals(self) -> tuple[Goal, ...]:
        """What the op chooses, and every implementation that can serve."""
        return tuple(
            Goal(f"{dtype}/{which}/{kind}", _LIMITS[dtype], "<=")
            for dtype in self.dtypes
            for which in ("chosen", "worst")
            for kind in ("forward", "gradients")
        )

    def smoke(self) -> Self:
        """Two small sizes."""
        return replace(self, sizes=(8, 64), batch=5)


def get_config() -> Config:
    """All precisions at all sizes."""
    return Config()

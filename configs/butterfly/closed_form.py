"""Closed form: butterflies from their matrix by hierarchical rank-one projections.

Papers: Zheng, Riccietti, Gribonval, "Efficient identification of butterfly sparse matrix
factorizations", 2021, arXiv:2110.01230; Le, Zheng, Riccietti, Gribonval, "Butterfly factorization
with error guarantees", 2024, arXiv:2411.04506.
What: relative Frobenius error of the factorization of the DFT, its inverse, the Hadamard matrix and
random members of the class, N = 8 .. 4096, in single and double precision, the largest over the
sizes; and the seconds for the DFT at N = 1024.
Expected: at most 5e-7 in float32 and 1e-12 in float64 (found: below 2e-7 and 1e-14), at most 1 s at
N = 1024 (found: 0.1 s).
Hardware: 2-core CPU, 10 minutes, 4 GB of memory.
Command: python -m experiments run configs/butterfly/closed_form.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.butterfly.closed_form import CASES, ClosedForm
from experiments.experiment import Goal


@dataclass(frozen=True)
class Config:
    """Which matrices, precisions and sizes."""

    family: str = "butterfly"
    experiment: str = "closed_form"
    cases: tuple[str, ...] = tuple(CASES)
    """Matrices, by the names in experiments/butterfly/closed_form.py."""
    dtypes: tuple[str, ...] = ("float32", "float64")
    """Precisions: "float32" and "float64", complex of the same precision where needed."""
    sizes: tuple[int, ...] = tuple(2**level for level in range(3, 13))
    """Matrix sizes N, powers of two."""
    timed_size: int = 1024
    """Size at which the seconds are taken."""
    runs: int = 5
    """Timed runs; their median counts."""
    goal_float32: float = 5e-7
    """Largest error allowed in float32."""
    goal_float64: float = 1e-12
    """Largest error allowed in float64."""
    goal_seconds: float = 1.0
    """Longest time allowed at `timed_size`."""

    def __post_init__(self) -> None:
        """Refuses names and sizes that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for case in self.cases:
            if case not in CASES:
                raise ValueError(f"cases must be among {sorted(CASES)}, got {case!r}")
        for dtype in self.dtypes:
            if dtype not in ("float32", "float64"):
                raise ValueError(f"dtypes must be 'float32' or 'float64', got {dtype!r}")
        for n in (*self.sizes, self.timed_size):
            if n < 2 or n & (n - 1):
                raise ValueError(f"sizes and timed_size must be powers of two, at least 2; got {n}")
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1, got {self.runs}")

    @property
    def enable_x64(self) -> bool:
        """Whether the run needs double precision."""
        return "float64" in self.dtypes

    def build(self) -> ClosedForm:
        """One phase for each matrix and precision, then the times."""
        return ClosedForm(self.cases, self.dtypes, self.sizes, self.timed_size, self.runs)

    def goals(self) -> tuple[Goal, ...]:
        """One line for each matrix and precision, and one for each time."""
        limits = {"float32": self.goal_float32, "float64": self.goal_float64}
        errors = [
            Goal(f"{case}/{dtype}/max_error", limits[dtype], "<=")
            for case in self.cases
            for dtype in self.dtypes
        ]
        times = [
            Goal(f"dft/{dtype}/seconds_n{self.timed_size:04d}", self.goal_seconds, "<=", unit="s")
            for dtype in self.dtypes
        ]
        return (*errors, *times)

    def smoke(self) -> Self:
        """One small size; the time is still taken at N = 1024."""
        return replace(self, sizes=(8,), runs=2)


def get_config() -> Config:
    """All matrices at all sizes."""
    return Config()

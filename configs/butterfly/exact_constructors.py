"""Exact constructors: DFT, DCT, DST, Hartley, Hadamard, Haar, convolutions, permutations.

Paper: Dao, Gu, Eichhorn, Rudra, Ré, "Learning fast algorithms for linear transforms using
butterfly factorizations", 2019, arXiv:1903.05895, proposition 1 (these transforms are butterflies);
the tests of the code published with it allow 1e-3.
What: relative Frobenius error against SciPy in float64, N = 2 .. 16384, untied and tied forms, in
float32 / complex64 and float64 / complex128; the largest over the sizes is the metric.
Expected: at most 1e-6 in float32 and 1e-13 in float64 (found: below 3e-7 and 1e-15).
Hardware: 2-core CPU, 10 minutes.
Command: python -m experiments run configs/butterfly/exact_constructors.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.butterfly.exactness import CASES, ConstructorExactness
from experiments.experiment import Goal


@dataclass(frozen=True)
class Config:
    """Which constructors, precisions and sizes."""

    family: str = "butterfly"
    experiment: str = "exact_constructors"
    cases: tuple[str, ...] = tuple(CASES)
    """Constructors, by the names in experiments/butterfly/exactness.py."""
    dtypes: tuple[str, ...] = ("float32", "float64")
    """Precisions: "float32" and "float64", complex of the same precision where needed."""
    sizes: tuple[int, ...] = tuple(2**level for level in range(1, 15))
    """Transform sizes N, powers of two."""
    goal_float32: float = 1e-6
    """Largest error allowed in float32."""
    goal_float64: float = 1e-13
    """Largest error allowed in float64."""

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
        for n in self.sizes:
            if n < 2 or n & (n - 1):
                raise ValueError(f"sizes must be powers of two, at least 2; got {n}")

    @property
    def enable_x64(self) -> bool:
        """Whether the run needs double precision."""
        return "float64" in self.dtypes

    def build(self) -> ConstructorExactness:
        """One phase for each constructor and precision."""
        return ConstructorExactness(self.cases, self.dtypes, self.sizes)

    def goals(self) -> tuple[Goal, ...]:
        """One line for each constructor and precision."""
        limits = {"float32": self.goal_float32, "float64": self.goal_float64}
        return tuple(
            Goal(f"{case}/{dtype}/max_error", limits[dtype], "<=")
            for case in self.cases
            for dtype in self.dtypes
        )

    def smoke(self) -> Self:
        """One size."""
        return replace(self, sizes=(8,))


def get_config() -> Config:
    """All constructors at all sizes."""
    return Config()

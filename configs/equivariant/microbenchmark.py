"""Tensor products of one channel by degree: time, and time per degree of freedom.

SISO (L x L to L), SIMO (L x L to 0..2 L), MIMO (0..L x 0..L to 0..2 L), 10,000 rows, float32, jit,
L = 1..10: Gaunt products on grids (one table each way, opposite points, Legendre and Fourier, the
kernel where it serves), by their coefficients (in one table, or one by one up to 512) and by
Fourier series, Clebsch-Gordan products (all couplings, or the even ones that Gaunt products have),
matrices, vector signals. Products of matrices and tables are in TF32. Beside each stand the paths
between the degrees, those that the product has, and the degrees of freedom of its weights, which
are all one while it is timed. A Gaunt product has no path of odd sum, so SISO has none at odd L;
vector signals are the opposite. Both, and matrices, take whole signals: in SISO and SIMO other
degrees are zeros. What cannot serve (a table over 2^24 entries, a kernel) is left out with its
reason. Kernel times by the profiler, median of 20 after a call on every input.

Paper: Xie, Daigavane, Kotak, Smidt 2025, arXiv:2506.13523, microbenchmarks; A100 (669 us for the
Gaunt product at L = 10). `published.py` says from where.
Expected: 100 us at L = 10 on one H200; in MIMO, whose signals are whole, what the Gaunt product
chooses is not slower than a Clebsch-Gordan product of the same couplings.
Hardware: one H200; 10 minutes (estimated), most of them to compile.
Command: python -m experiments run configs/equivariant/microbenchmark.py
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from experiments.equivariant.microbenchmark.config import MicrobenchmarkConfig
from experiments.experiment import Goal
from structlayers.equivariant.expressivity import SETTINGS

if TYPE_CHECKING:
    from experiments.equivariant.microbenchmark.cases import Case
    from experiments.equivariant.microbenchmark.experiment import Published


@dataclass(frozen=True)
class Config(MicrobenchmarkConfig):
    """Which products, settings and degrees."""

    experiment: str = "microbenchmark"
    products: tuple[str, ...] = ()
    """Names in experiments/equivariant/microbenchmark/freedom.py; none are all of them."""
    settings: tuple[str, ...] = SETTINGS
    """One of "siso", "simo", "mimo"."""
    degrees: tuple[int, ...] = tuple(range(1, 11))
    """Degrees L, up to 10."""
    rows: int = 10_000
    """Batch."""

    def __post_init__(self) -> None:
        """Refuses names and degrees that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        from experiments.equivariant.microbenchmark.freedom import PRODUCTS

        super().__post_init__()
        self._require("products", self.products, PRODUCTS)
        self._require("settings", self.settings, SETTINGS)
        self._require_range("degrees", self.degrees, 1, 10)
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")

    def cases(self) -> "tuple[Case, ...]":
        """Setting by setting."""
        from experiments.equivariant.microbenchmark.freedom import PRODUCTS, freedom_case

        return tuple(
            freedom_case(setting, lmax, self.rows, self.products or PRODUCTS, self.precision)
            for setting in self.settings
            for lmax in self.degrees
        )

    def published(self) -> "Published":
        """Those of an A100."""
        from experiments.equivariant.microbenchmark.published import FREEDOM

        return FREEDOM

    def goals(self) -> tuple[Goal, ...]:
        """Against the published times, and Gaunt against Clebsch-Gordan products."""
        rows = ("clebsch_gordan_dense", "clebsch_gordan_sparse_even", "fourier_2d", "matrix")
        goals = [*self.published_goals((*rows, "chosen"))]
        goals = [
            replace(goal, goal=100.0) if goal.metric == "mimo_l10_b10000_tf32/chosen/us" else goal
            for goal in goals
        ]
        goals += [
            Goal(f"{case.key}/speedup", 1.0, ">=") for case in self.cases() if case.panel == "mimo"
        ]
        return tuple(goals)

    def smoke(self) -> Self:
        """Two products of one degree, few rows."""
        return replace(
            self,
            products=("xla", "clebsch_gordan_dense", "vector_signal"),
            settings=("mimo",),
            degrees=(1,),
            rows=16,
            precision="highest",
            repeats=2,
            sample_seconds=2e-3,
            timer="loop",
        )


def get_config() -> Config:
    """All products in all settings."""
    return Config()

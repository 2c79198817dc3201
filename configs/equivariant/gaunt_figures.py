"""Gaunt products against Clebsch-Gordan products, the figures on efficiency of the Gaunt paper.

Float32, products of tables in TF32, degrees as this library counts them (the paper's "L" is one
more). Feature interaction: 128 channels, one sample, 0..L x 0..L to 0..2 L, L = 1..13. Equivariant
convolution: one channel, a signal and the harmonics of one direction, the same degrees, L = 1..11.
Many bodies: 32 samples of 128 channels, three factors, L to L for L = 1..5, and four to seven for
L = 1. Beside `gaunt_tensor_product`, on grids and by coefficients, stand the same products by
coupling tensors, beside `many_body_product` the symmetric contraction with all couplings. Kernel
times by the profiler, median of 20 after a call on every input; tables are made before.

Paper: Luo, Chen, Krishnapriyan 2024, arXiv:2401.10216, section 4.1. Its times of feature
interactions and convolutions are means of ten calls of which the first compiles, with deviations
above the mean, so no ratio of theirs (up to 1036 times e3nn) is a goal; eSCN, which made matrices
of rotations while timed, is not measured here. Those of MACE and of its own many-body products
(2.2 to 5.1 times as fast) have no such fault. All are wall times, launches included.
Expected: what the ops choose is never slower than products of coupling tensors.
Hardware: one H200; 10 minutes (estimated), 3 of them for the symmetric couplings of L = 5.
Command: python -m experiments run configs/equivariant/gaunt_figures.py
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from experiments.equivariant.microbenchmark.config import MicrobenchmarkConfig
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.equivariant.microbenchmark.cases import Case
    from experiments.equivariant.microbenchmark.experiment import Published


@dataclass(frozen=True)
class Config(MicrobenchmarkConfig):
    """Which degrees and numbers of factors."""

    experiment: str = "gaunt_figures"
    feature: tuple[int, ...] = tuple(range(1, 14))
    """Degrees L of feature interactions, up to 13."""
    convolution: tuple[int, ...] = tuple(range(1, 12))
    """Degrees L of convolutions, up to 13."""
    many_body: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Degrees L of products of three, up to 5."""
    order: tuple[int, ...] = (4, 5, 6, 7)
    """Numbers of factors at L = 1, 2 to 7."""

    def __post_init__(self) -> None:
        """Refuses places that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        super().__post_init__()
        self._require_range("feature", self.feature, 1, 13)
        self._require_range("convolution", self.convolution, 1, 13)
        self._require_range("many_body", self.many_body, 1, 5)
        self._require_range("order", self.order, 2, 7)

    def cases(self) -> "tuple[Case, ...]":
        """Panel by panel."""
        from experiments.equivariant.microbenchmark.figures import CASES

        return tuple(
            make(at, self.precision) for panel, make in CASES.items() for at in getattr(self, panel)
        )

    def published(self) -> "Published":
        """Those of the paper's notebooks."""
        from experiments.equivariant.microbenchmark.published import GAUNT

        return GAUNT

    def goals(self) -> tuple[Goal, ...]:
        """Not slower than coupling tensors, nor than the paper's product."""
        goals = list(self.published_goals(("chosen",)))
        for case in self.cases():
            paper = self.published().get(case.key, {})
            mace = paper.get("symmetric_contraction")
            ratio = mace / paper["chosen"] if mace else None
            goals.append(Goal(f"{case.key}/speedup", 1.0, ">=", paper=ratio))
        return tuple(goals)

    def smoke(self) -> Self:
        """The smallest case of each panel, timed in a short loop."""
        return replace(
            self,
            feature=(1,),
            convolution=(1,),
            many_body=(1,),
            order=(2,),
            precision="highest",
            repeats=2,
            sample_seconds=1e-3,
            timer="loop",
        )


def get_config() -> Config:
    """All panels."""
    return Config()

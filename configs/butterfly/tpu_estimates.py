"""Butterfly product against the dense matrix product on five TPU generations: compiled estimates.

What: estimated time of `butterfly_multiply` ("pallas_tpu", the whole program, with the merging of
the twiddle) and of XLA's product with a dense matrix of the same size, from libtpu's ahead-of-time
compiler; nothing is measured, no TPU takes part (structlayers/testing/README.md says how times
are estimated). The smallest quotient is the metric: over N = 2048 .. 8192, and over 2048 and 4096
for the product with its gradients.
Expected: at least 1 on every generation. N = 8192 is not served on v4, whose 16 MiB of VMEM do
not hold its weights and the sums of their gradients.
Hardware: 2-core CPU with libtpu, 40 minutes.
Command: python -m experiments run configs/butterfly/tpu_estimates.py --store
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.butterfly.tpu_estimates import GENERATIONS, MODES, TpuEstimates
from experiments.experiment import Goal


@dataclass(frozen=True)
class Config:
    """Which sizes, dtypes, modes and generations."""

    family: str = "butterfly"
    experiment: str = "tpu_estimates"
    sizes: tuple[int, ...] = (2048, 4096, 8192)
    """Transform sizes N of the product alone, powers of two."""
    gradient_sizes: tuple[int, ...] = (2048, 4096)
    """Transform sizes N of the product with its gradients."""
    batch: int = 16384
    """Rows of the data."""
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    """Of the data."""
    targets: tuple[str, ...] = GENERATIONS
    """TPU generations."""
    goal_speedup: float = 1.0
    """Smallest quotient of dense and butterfly."""

    def __post_init__(self) -> None:
        """Refuses names and sizes that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for name, values, known in (
            ("dtypes", self.dtypes, ("bfloat16", "float32")),
            ("targets", self.targets, GENERATIONS),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(f"{name} must be among {', '.join(known)}, got {value!r}")
        for n in (*self.sizes, *self.gradient_sizes):
            if n < 128 or n & (n - 1):
                raise ValueError(f"sizes must be powers of two, at least 128; got {n}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def build(self) -> TpuEstimates:
        """One phase for each mode, dtype and size."""
        sizes = dict(zip(MODES, (self.sizes, self.gradient_sizes), strict=True))
        return TpuEstimates(sizes, self.batch, self.dtypes, self.targets)

    def goals(self) -> tuple[Goal, ...]:
        """One line for each mode, dtype and generation."""
        return tuple(
            Goal(f"{mode}/{dtype}/{target}/min_speedup", self.goal_speedup, ">=")
            for mode in MODES
            for dtype in self.dtypes
            for target in self.targets
        )

    def smoke(self) -> Self:
        """One size, forward, on one generation."""
        return replace(
            self, sizes=(512,), gradient_sizes=(), dtypes=("bfloat16",), targets=("v5e",)
        )


def get_config() -> Config:
    """All sizes, dtypes, modes and generations."""
    return Config()

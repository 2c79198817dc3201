"""Device time of one token of a layer of gated linear attention, state in place, on Hopper.

What: `gated_linear_attention_decode`, bfloat16 with a float32 state that is written where it was
read: the kernel for Hopper and XLA. Time of the kernels in a profile, median over calls on states
that take turns (200 MB, more than the cache); its share of the bandwidth of memory for reading and
writing the state once; relative errors against float64.

Paper: Yang et al. 2024, arXiv:2312.06635, has no times of decoding; sizes are those of its models.
Expected: 80 % of 4.3 TB/s from 100 MB on; 10 us for a layer of the 1.3B model at B = 8 (floor 7.8).
Hardware: one H200; 1 minute.
Command: python -m experiments run configs/gla/decode_speed.py
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.experiment import Goal
from experiments.gla.decode_speed import Case, DecodeSpeed

_SIZES = ((128, 256), (256, 512))  # of the models with 340 million and 1.3 billion parameters
_CASES = tuple(
    f"b{batch}_h4_k{key}_v{value}_bfloat16" for key, value in _SIZES for batch in (1, 8, 64)
)
_SMALL = ("b2_h1_k32_v32_float32",)


@dataclass(frozen=True)
class Config:
    """Which implementations at which sizes."""

    family: str = "gla"
    experiment: str = "decode_speed"
    implementations: tuple[str, ...] = ("pallas_gpu", "xla")
    """Of the op."""
    cases: tuple[str, ...] = _CASES
    """Batch, heads, features of a key and of a value, and dtype of all but the state."""
    repeats: int = 24
    """Timed calls at least."""
    cache_bytes: int = 200_000_000
    """What the states of a case together exceed."""
    bytes_per_second: float = 4.3e12
    """Of the memory: 4.24e12 by a copy on an H200, and the figure that the goal names."""

    def __post_init__(self) -> None:
        """Refuses what cannot be timed.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.implementations or not self.cases:
            raise ValueError(
                f"implementations and cases must not be empty, got {self.implementations} and "
                f"{self.cases}"
            )
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        self._parsed()

    def _parsed(self) -> tuple[Case, ...]:
        return tuple(map(Case.parse, self.cases))

    def build(self) -> DecodeSpeed:
        """One phase an implementation."""
        return DecodeSpeed(
            self.implementations,
            self._parsed(),
            self.repeats,
            self.cache_bytes,
            self.bytes_per_second,
        )

    def goals(self) -> tuple[Goal, ...]:
        """Bandwidth of a large step, time of a small one, rounding."""
        large, layer = "pallas_gpu/b64_h4_k256_v512", "pallas_gpu/b8_h4_k256_v512"
        return (
            Goal(f"{large}/share", 0.8, ">="),
            Goal(f"{layer}/microseconds", 10, "<=", unit="us"),
            Goal(f"{layer}/output_error", 4e-3, "<="),
            Goal(f"{layer}/state_error", 1e-6, "<="),
        )

    def smoke(self) -> Self:
        """A small state by XLA, timed by the clock."""
        return replace(self, implementations=("xla",), cases=_SMALL, repeats=2, cache_bytes=100_000)


def get_config() -> Config:
    """The layers of both models, 1, 8 and 64 sequences."""
    return Config()

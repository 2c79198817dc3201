"""Sequence parallelism: equality with one device, bytes that ranks exchange, weak scaling.

What: `sequence_parallel_gated_linear_attention` with time sharded over 2 and 4 devices (as many as
there are) against `gated_linear_attention` on one, values and gradients, float32; bytes of all
collectives in the compiled program against `4 P B H (K V + K)`; and the time on one device with T
tokens over that on P devices with P T, bfloat16, 32768 tokens a device, the sizes of a layer of the
1.3B model, of one call among many in a loop on the devices. Virtual devices of a CPU share its
cores: their times say nothing about scaling.

Paper: no such experiment in Yang et al. 2024, arXiv:2312.06635; LASP-2 (arXiv:2502.07563) and ZeCO
(arXiv:2507.01004) have it for other models.
Expected: errors 1e-6, bytes forward and backward at most once the bound each, scaling 0.92.
Hardware: 2 or 4 GPUs; 3 minutes.
Command: python -m experiments run configs/gla/sequence_parallel.py
"""

from dataclasses import dataclass, replace
from typing import Self

import jax

from experiments.experiment import Goal
from experiments.gla.sequence_parallel import RanksPhase, SequenceParallel, Sizes

_SIZES = {
    "small": Sizes(batch=1, heads=1, key=8, value=8, dtype="float32"),
    "340M": Sizes(batch=1, heads=4, key=128, value=256, dtype="float32"),
    "1.3B": Sizes(batch=1, heads=4, key=256, value=512, dtype="bfloat16"),
}


@dataclass(frozen=True)
class Config:
    """Sizes, and how many devices."""

    family: str = "gla"
    experiment: str = "sequence_parallel"
    ranks: tuple[int, ...] = (2, 4)
    """Numbers of devices; those that are not there are left out."""
    equality: str = "340M"
    """Model whose layer has the sizes at which results are compared, or "small"."""
    equality_tokens: int = 1000
    """Tokens on every device, there."""
    timing: str = "1.3B"
    """The same for times."""
    timing_tokens: int = 32768
    """Tokens on every device, there."""
    implementation: str | None = None
    """Of the op; None is what it chooses."""
    repeats: int = 20
    """Timed loops."""
    calls: int = 20
    """In a loop."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be numbers of devices, at least 1, got {self.ranks}")
        for field in ("equality", "timing"):
            if getattr(self, field) not in _SIZES:
                known, found = ", ".join(_SIZES), getattr(self, field)
                raise ValueError(f"{field} must be one of {known}; got {found!r}")

    def build(self) -> SequenceParallel:
        """One phase for every number of devices.

        Raises:
            ValueError: there are fewer devices than the least number.
        """
        count = jax.device_count()
        present = [ranks for ranks in self.ranks if ranks <= count]
        if not present:
            raise ValueError(
                f"ranks must name a number of devices that are there, {count}; got {self.ranks}. "
                "On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=4 makes virtual ones"
            )
        return SequenceParallel(
            tuple(
                RanksPhase(
                    ranks,
                    _SIZES[self.equality],
                    self.equality_tokens,
                    _SIZES[self.timing],
                    self.timing_tokens,
                    self.implementation,
                    self.repeats,
                    self.calls,
                )
                for ranks in present
            )
        )

    def goals(self) -> tuple[Goal, ...]:
        """Errors, bytes and scaling, for every number of devices."""
        goals = []
        for ranks in self.ranks:
            goals += [
                Goal(f"p{ranks}/value_error", 1e-6, "<="),
                Goal(f"p{ranks}/gradient_error", 1e-6, "<="),
                Goal(f"p{ranks}/bytes_share", 1, "<="),
                Goal(f"p{ranks}/bytes_back_share", 1, "<="),
                Goal(f"p{ranks}/forward_weak_scaling", 0.92, ">="),
                Goal(f"p{ranks}/both_weak_scaling", 0.92, ">="),
            ]
        return tuple(goals)

    def smoke(self) -> Self:
        """Few tokens of small heads, on the one device that every machine has."""
        return replace(
            self,
            ranks=(1,),
            equality="small",
            equality_tokens=13,
            timing="small",
            timing_tokens=16,
            repeats=2,
            calls=2,
        )


def get_config() -> Config:
    """2 and 4 devices."""
    return Config()

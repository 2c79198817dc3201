"""The TPU generations that the gate compiles for, and their datasheet figures.

Peaks and bandwidths are those of the vendor's pages (README.md names them), per chip. A JAX device
of v4 and TPU7x is one TensorCore of the two on a chip; of v5p it is both; v5e and v6e have one.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Target:
    """One TPU generation, as one JAX device of it.

    Attributes:
        name: the generation, as the vendor writes it.
        topology: what libtpu calls the smallest slice that it compiles for.
        chip_cores: TensorCores on a chip.
        device_cores: TensorCores in one JAX device.
        chip_flops: peak bfloat16 FLOP/s of a chip (datasheet).
        chip_bandwidth: HBM bytes/s of a chip (datasheet).
        core_flops_per_cycle: bfloat16 FLOP that the MXUs of a TensorCore do in a cycle.
        branch_delay: bundles after a branch that still issue, as the compiler's schedules show.
        has_simulation: whether the compiler can simulate it; on v4 it aborts.
    """

    name: str
    topology: str
    chip_cores: int
    device_cores: int
    chip_flops: float
    chip_bandwidth: float
    core_flops_per_cycle: int
    branch_delay: int
    has_simulation: bool = True

    @property
    def clock(self) -> float:
        """Cycles per second, from the datasheet's peak: peak / (cores * FLOP per cycle).

        Example:
            >>> round(TARGETS["v4"].clock / 1e9, 2)
            1.05
        """
        return self.chip_flops / (self.chip_cores * self.core_flops_per_cycle)

    @property
    def bandwidth(self) -> float:
        """HBM bytes per second of one JAX device: its share of the chip's.

        Example:
            >>> TARGETS["TPU7x"].bandwidth / TARGETS["TPU7x"].chip_bandwidth
            0.5
        """
        return self.chip_bandwidth * self.device_cores / self.chip_cores


# FLOP per cycle: 4 MXUs of 128 x 128, or 2 of 256 x 256 that take two rows a cycle (the compiler's
# schedules give a push of 16 rows 16 and 8 cycles).
_FOUR_SMALL = 2 * 4 * 128 * 128
_TWO_LARGE = 2 * 2 * 256 * 256 * 2

TARGETS = {
    target.name: target
    for target in (
        Target("v4", "v4:2x2x1", 2, 1, 275e12, 1228e9, _FOUR_SMALL, 1, False),
        Target("v5e", "v5e:1x1", 1, 1, 197e12, 819e9, _FOUR_SMALL, 4),
        Target("v5p", "v5p:2x2x1", 2, 2, 459e12, 2765e9, _FOUR_SMALL, 4),
        Target("v6e", "v6e:1x1", 1, 1, 918e12, 1638e9, _TWO_LARGE, 4),
        Target("TPU7x", "tpu7x:2x2x1", 2, 1, 2307e12, 7380e9, _TWO_LARGE, 6),
    )
}
ALL = tuple(TARGETS)


def find_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """The targets of these names, in any case.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> [target.name for target in find_targets(["tpu7x", "V5E"])]
        ['TPU7x', 'v5e']
    """
    known = {name.lower(): target for name, target in TARGETS.items()}
    for name in names:
        if name.lower() not in known:
            raise ValueError(f"unknown TPU target {name!r}, known are {', '.join(ALL)}")
    return tuple(known[name.lower()] for name in names)

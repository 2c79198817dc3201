"""Wall time of `--preset smoke` of every config under configs/.

What: each config's smoke preset in a process of its own on the CPU, from start to verdict, compile
included; the largest of these times, and how many of the runs failed.
Expected: every one under 20 s on a 2-core CPU, none fails.
Hardware: 2-core CPU, a few minutes (seconds for each config).
Command: python -m experiments run configs/framework/smoke_presets.py --store
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from experiments.experiment import Goal
from experiments.framework.smoke_presets import SmokePresets


@dataclass(frozen=True)
class Config:
    """Which configs to run, and how long to wait for one."""

    family: str = "framework"
    experiment: str = "smoke_presets"
    only: tuple[str, ...] = ()
    """Configs as <family>/<name>; all but this one if empty."""
    timeout: float = 300.0
    """Seconds after which a run counts as failed."""

    def build(self) -> SmokePresets:
        """The measurement."""
        return SmokePresets(self.only, self.timeout)

    def goals(self) -> tuple[Goal, ...]:
        """At most 20 s for each, and none fails."""
        return (
            Goal("max_seconds", 20.0, "<=", unit="s"),
            Goal("num_failed", 0, "<="),
        )

    def smoke(self) -> Self:
        """The smallest config only."""
        return dataclasses.replace(self, only=("framework/import_time",))


def get_config() -> Config:
    """The full measurement."""
    return Config()

"""Time of `import structlayers` in a fresh process.

What: median over 7 fresh processes of the seconds that the import statement takes, and the number
of modules that it must not pull in (Flax, kernels, experiment dependencies) but did; beside it
the same for one family's package, which imports jax.
Expected: at most 1.5 s on a 2-core CPU; no such module.
Hardware: any CPU, under half a minute.
Command: python -m experiments run configs/framework/import_time.py --store
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

from experiments.experiment import Goal
from experiments.framework.import_time import ImportTime


@dataclass(frozen=True)
class Config:
    """How often to measure."""

    family: str = "framework"
    experiment: str = "import_time"
    repeats: int = 7
    """Fresh processes; the median of their times counts."""
    modules: tuple[str, ...] = ("structlayers", "structlayers.butterfly")
    """Modules to import; the goal is for the first."""

    def build(self) -> ImportTime:
        """The measurement."""
        return ImportTime(self.modules, self.repeats)

    def goals(self) -> tuple[Goal, ...]:
        """At most 1.5 s, and nothing imported that is not needed."""
        return (
            Goal("structlayers.seconds_median", 1.5, "<=", unit="s"),
            Goal("unneeded_modules", 0, "<="),
        )

    def smoke(self) -> Self:
        """Two processes a module."""
        return dataclasses.replace(self, repeats=2)


def get_config() -> Config:
    """The full measurement."""
    return Config()

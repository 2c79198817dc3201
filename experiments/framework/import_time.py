"""Seconds that an import takes in a fresh process, and what it pulls in without need."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.config_files import ROOT
from experiments.experiment import Results, Scalars

UNNEEDED = (
    "chex",
    "e3nn_jax",
    "experiments",
    "flax",
    "grain",
    "jax.experimental.mosaic",
    "jax.experimental.pallas",
    "matplotlib",
    "optax",
    "orbax",
    "rich",
    "scipy",
    "sklearn",
    "tokenizers",
    "tyro",
)

PROGRAM = """
import sys, time
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
import json
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def measure(module: str) -> tuple[float, list[bool]]:
    """Imports a module in a fresh process.

    Args:
        module: dotted name.

    Returns:
        seconds of the import statement; for each of UNNEEDED whether it was imported.

    Raises:
        RuntimeError: the import failed; the message ends with the child's own.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(f"import {module} failed in a fresh process:\n{done.stderr.strip()}")
    answer = json.loads(done.stdout)
    modules = set(answer["modules"])
    return answer["seconds"], [name in modules for name in UNNEEDED]


@dataclass(frozen=True)
class ImportPhase:
    """One import a step.

    Attributes:
        module: what to import.
        num_steps: how often.
    """

    module: str
    num_steps: int
    chunk: int = 1

    @property
    def name(self) -> str:
        """The module."""
        return self.module

    def init(self) -> dict[str, np.ndarray]:
        """Nothing measured."""
        return {
            "seconds": np.zeros(self.num_steps),
            "unneeded": np.zeros(len(UNNEEDED), np.bool_),
        }

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], Scalars]:
        """Measures `num` times."""
        seconds, unneeded = state["seconds"].copy(), state["unneeded"].copy()
        for index in range(step, step + num):
            seconds[index], found = measure(self.module)
            unneeded |= np.asarray(found)
        return {"seconds": seconds, "unneeded": unneeded}, {"seconds": seconds[step + num - 1]}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """All times, and the names of modules that should not have been imported."""
        pairs = zip(UNNEEDED, state["unneeded"], strict=True)
        return {"seconds": state["seconds"], "unneeded": [name for name, found in pairs if found]}


@dataclass(frozen=True)
class ImportTime:
    """The measurement of some modules' imports.

    Attributes:
        modules: what to import, each in processes of its own.
        repeats: fresh processes a module.
    """

    modules: tuple[str, ...]
    repeats: int

    def phases(self) -> Sequence[ImportPhase]:
        """One phase a module, one process a step."""
        return [ImportPhase(module, self.repeats) for module in self.modules]

    def finish(self, results: Results) -> dict[str, Any]:
        """Median and smallest time of each, and the number of unneeded modules over all."""
        metrics: dict[str, Any] = {}
        for module, entry in results.items():
            metrics[f"{module}.seconds_median"] = float(np.median(entry["seconds"]))
            metrics[f"{module}.seconds_min"] = min(entry["seconds"])
        unneeded = {name for entry in results.values() for name in entry["unneeded"]}
        return {**metrics, "unneeded_modules": len(unneeded)}

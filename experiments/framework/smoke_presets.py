"""Wall seconds of the smoke preset of every config, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config_files import ROOT, ConfigFile, find_configs
from experiments.errors import CommandError
from experiments.experiment import Results, Scalars

MYSELF = "framework/smoke_presets"


@dataclass(frozen=True)
class SmokePhase:
    """The smoke run of one config, as one step.

    Attributes:
        config: the file.
        timeout: seconds after which it counts as failed.
    """

    config: ConfigFile
    timeout: float
    num_steps: int = 1
    allow_nonfinite: frozenset[str] = frozenset({"*"})  # a failed run takes infinite time

    @property
    def name(self) -> str:
        """Family and experiment."""
        return f"{self.config.family}+{self.config.experiment}"

    def init(self) -> np.ndarray:
        """Nothing measured."""
        return np.zeros(1)

    def advance(self, state: np.ndarray, step: int, num: int) -> tuple[np.ndarray, Scalars]:
        """Runs the config; infinity if it fails or takes too long."""
        seconds, problem = smoke_seconds(self.config.path, self.timeout)
        if problem:
            print(f"{self.config.path} failed:\n{problem}", file=sys.stderr, flush=True)
        return np.full_like(state, seconds), {"seconds": seconds}

    def finish(self, state: np.ndarray) -> dict[str, Any]:
        """The seconds."""
        return {"seconds": state[0]}


@dataclass(frozen=True)
class SmokePresets:
    """The smoke presets of all configs, or of some.

    Attributes:
        only: names as <family>/<name>; all but this measurement itself if empty.
        timeout: seconds after which a run counts as failed.
    """

    only: tuple[str, ...]
    timeout: float

    def phases(self) -> Sequence[SmokePhase]:
        """One phase a config.

        Raises:
            CommandError: a name in `only` is no config, or this measurement itself.
        """
        known = {f"{file.family}/{file.experiment}": file for file in find_configs()}
        known.pop(MYSELF, None)
        unknown = [name for name in self.only if name not in known]
        if unknown:
            raise CommandError(f"--only {unknown[0]!r} is unknown; expected {', '.join(known)}")
        return [SmokePhase(known[name], self.timeout) for name in self.only or known]

    def finish(self, results: Results) -> dict[str, Any]:
        """The longest run, how many failed, and the seconds of each."""
        seconds = {name.replace("+", "/"): entry["seconds"] for name, entry in results.items()}
        return {
            "max_seconds": max(seconds.values()),
            "num_failed": sum(not np.isfinite(value) for value in seconds.values()),
            "num_configs": len(seconds),
            **seconds,
        }


def smoke_seconds(config: Path, timeout: float) -> tuple[float, str]:
    """Runs one smoke preset on the CPU, in a temporary work folder.

    Args:
        config: config file.
        timeout: seconds to wait.

    Returns:
        seconds from start to exit, and "" or what went wrong (then the seconds are infinite).
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments", "run", str(config), "--preset", "smoke"]
        begun = time.perf_counter()
        try:
            done = subprocess.run(
                [*command, "--workdir", folder],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                timeout=timeout,
                start_new_session=True,  # Ctrl-C is for the parent, which then waits and saves
            )
        except subprocess.TimeoutExpired:
            return float("inf"), f"no end after {timeout:g} s"
        seconds = time.perf_counter() - begun
    if done.returncode:
        return float("inf"), f"exit code {done.returncode}\n{done.stderr[-2000:]}"
    return seconds, ""

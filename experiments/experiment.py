"""The types an experiment is written against: `Config`, `Experiment`, `Phase`, `Goal`.

A config file holds a frozen dataclass (`Config`) that builds an `Experiment`: an ordered list of
`Phase`s and a summary of their results. The runner (`experiments.runner`) walks the phases, saves
the state, resumes it and writes the files; an experiment does none of that itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

type State = Any
"""Pytree of jax or numpy arrays (any dtype, PRNG keys included), at least one leaf."""

type Scalars = Mapping[str, Any]
"""What a phase logs: flat name to real number, be it Python's, numpy's or jax's."""

type Results = dict[str, dict[str, Any]]
"""JSON-able results of the finished phases, by phase name, in the order they ran."""


@runtime_checkable
class Phase(Protocol):
    """One resumable stretch of work, e.g. the fit at one transform size.

    All that `advance` needs beyond the config is in its arguments (and in `host_state`, if given):
    a phase may be made anew in another process and continue from a restored state.

    Optional members, found by name:

    - `chunk: int`: steps that one call of `advance` takes at most (default: about 1/50 of the
      phase, between 1 and 1000). Cuts are at multiples of `chunk`, so that a resumed run makes the
      same calls as an uninterrupted one; a checkpoint or a signal waits for the end of a chunk.
    - `allow_nonfinite: frozenset[str]`: names of logged scalars, and key paths (or prefixes of key
      paths, as the NaN message prints them) of state leaves, in which NaN and infinity are no
      failure, e.g. vmapped seeds that may diverge. "*" allows all of them.
    - `host_state() -> dict`, `set_host_state(dict) -> None`: JSON-able state outside the pytree,
      e.g. of a data iterator; saved and restored with the arrays.
    - `keep(state, folder)`: writes what is of use after the run.
    """

    @property
    def name(self) -> str:
        """Unique in the run and safe as a file name, e.g. "n0064_float32"."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps from `init` to `finish`, >= 1."""
        ...

    def init(self) -> State:
        """First state, deterministic from the config."""
        ...

    def advance(self, state: State, step: int, num: int) -> tuple[State, Scalars]:
        """Exactly `num` further steps from `step`; returns the new state and scalars to log.

        The state that was passed in is not used again by the runner: it may be donated.
        """
        ...

    def finish(self, state: State) -> dict[str, Any]:
        """JSON-able results of the phase, from its last state."""
        ...


@runtime_checkable
class HostState(Protocol):
    """What a phase offers when part of its state lives outside the pytree (data iterators)."""

    def host_state(self) -> dict[str, Any]:
        """JSON-able snapshot, taken between two calls of `advance`."""
        ...

    def set_host_state(self, state: dict[str, Any]) -> None:
        """Takes back what `host_state` returned; called before the next `advance`."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """What a phase offers when something of its last state is of use after the run."""

    def keep(self, state: State, folder: Path) -> None:
        """Writes files, such as a trained model, into the work folder; called after `finish`."""
        ...


@runtime_checkable
class Experiment(Protocol):
    """Phases in the order they run, and what is made of their results."""

    def phases(self) -> Sequence[Phase]:
        """The phases, in order; names unique."""
        ...

    def finish(self, results: Results) -> dict[str, Any]:
        """Flat metrics {name: number}, the ones goals refer to, from all phases' results."""
        ...


@runtime_checkable
class Plots(Protocol):
    """Offered by an experiment whose result people would rather look at."""

    def plot(self, results: Results, metrics: Mapping[str, Any], path: Path) -> None:
        """Draws the results into the PNG file `path`."""
        ...


ONLY_GOALS = {"only_goals": True}
"""Metadata of a config's field that says what is wanted of a run, and nothing of what it does: a
stored result is not out of date when it changes."""


@dataclass(frozen=True)
class Goal:
    """A figure to reach: `metric` `direction` `goal`, beside the paper's own value.

    Attributes:
        metric: name in the dictionary that `Experiment.finish` returns, or a figure the runner
            itself measures: "seconds.compute", "seconds.total", "phases.NAME.seconds", "steps".
        goal: the bound, in `unit`.
        direction: "<=" (at most the goal) or ">=" (at least the goal).
        paper: the paper's value, or None where it gives none.
        unit: unit of value, goal and paper; empty for pure numbers.
    """

    metric: str
    goal: float
    direction: Literal["<=", ">="]
    paper: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuses a direction that is neither "<=" nor ">=", and a goal that is not finite."""
        if self.direction not in ("<=", ">="):
            raise ValueError(
                f"direction of goal {self.metric!r} must be '<=' or '>=', got {self.direction!r}"
            )
        if not math.isfinite(self.goal):
            raise ValueError(f"goal of {self.metric!r} must be a finite number, got {self.goal!r}")

    def status(self, value: float | None) -> Literal["pass", "short", "not run"]:
        """Verdict on a measured value: None is "not run", NaN and infinity always "short".

        Example:
            >>> Goal("rmse", 1e-4, "<=").status(3e-6)
            'pass'
            >>> Goal("accuracy", 0.9, ">=").status(float("nan"))
            'short'
            >>> Goal("accuracy", 0.9, ">=").status(None)
            'not run'
        """
        if value is None:
            return "not run"
        reached = value <= self.goal if self.direction == "<=" else value >= self.goal
        return "pass" if reached and math.isfinite(value) else "short"


@dataclass(frozen=True)
class Lines:
    """What the configs of measurements have in common: bounds on their metrics.

    Attributes:
        at_least: metrics and the least value they are to have.
        at_most: metrics and the largest value they are to have.
    """

    at_least: tuple[tuple[str, float], ...] = field(default=(), metadata=ONLY_GOALS)
    at_most: tuple[tuple[str, float], ...] = field(default=(), metadata=ONLY_GOALS)

    def goals(self) -> tuple[Goal, ...]:
        """The bounds."""
        return tuple(Goal(name, bound, ">=") for name, bound in self.at_least) + tuple(
            Goal(name, bound, "<=") for name, bound in self.at_most
        )


@runtime_checkable
class Config(Protocol):
    """The frozen dataclass that `get_config()` of a config file returns.

    Optional fields that the runner reads: `dtype` ("float64" turns on jax's 64-bit mode in the
    run's process) or `enable_x64: bool`, which has the last word.
    """

    @property
    def family(self) -> str:
        """Name of the family, the folder under configs/ and experiments/results/."""
        ...

    @property
    def experiment(self) -> str:
        """Name of the experiment, unique in the family; by custom the config file's name."""
        ...

    def build(self) -> Experiment:
        """The experiment that this config describes."""
        ...

    def goals(self) -> tuple[Goal, ...]:
        """Figures that the full run is to reach."""
        ...

    def smoke(self) -> Self:
        """The `--preset smoke` variant: the same code in seconds on a 2-core CPU."""
        ...

"""What the runner demands of an experiment's phases."""

import re
from collections.abc import Sequence

from experiments.experiment import Phase


def chunk_of(phase: Phase) -> int:
    """Steps in one call of `advance`: the phase's own `chunk`, or a fiftieth of its steps.

    Raises:
        ValueError: the phase's chunk is no positive integer.
    """
    chunk = getattr(phase, "chunk", None)
    if chunk is None:
        return min(max(phase.num_steps // 50, 1), 1000)
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"phase {phase.name}: chunk must be an integer >= 1, got {chunk!r}")
    return chunk


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuses phases that cannot be told apart on disk or have nothing to do.

    Raises:
        ValueError: a name is repeated or no file name, `num_steps` < 1, or there is no phase.
    """
    if not phases:
        raise ValueError("the experiment has no phases; expected at least one")
    seen: set[str] = set()
    for phase in phases:
        name = phase.name
        if not re.fullmatch(r"[A-Za-z0-9_+=\-][A-Za-z0-9._+=\-]*", name):
            raise ValueError(f"phase name {name!r} must be made of letters, digits and ._-+=")
        if name in seen:
            raise ValueError(f"phase name {name!r} is repeated; names must be unique")
        if phase.num_steps < 1:
            raise ValueError(f"phase {name}: num_steps must be >= 1, got {phase.num_steps}")
        seen.add(name)


def check_structure(phase: str, step: int, first: dict[str, str], now: dict[str, str]) -> None:
    """Refuses an `advance` that changes names, shapes or dtypes: it could not be resumed.

    Raises:
        TypeError: the message names the leaf and both types.
    """
    for name in sorted(set(first) | set(now)):
        if first.get(name) != now.get(name):
            raise TypeError(
                f"phase {phase}: after step {step} state leaf {name} is "
                f"{now.get(name, 'absent')}, but init() gave {first.get(name, 'absent')}; "
                "shapes and dtypes must stay"
            )

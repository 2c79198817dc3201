"""Rivals: what people would use instead of an op, measured in the same table.

A family's rivals stand in `experiments/<family>/rivals.py` as `RIVALS: dict[op, tuple[Rival]]`.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

from experiments.bench.loop import Arrays
from experiments.bench.registry import suggest
from structlayers._core.arg_spec import ArgSpec


@dataclasses.dataclass(frozen=True)
class Contender:
    """A rival made ready for one spec.

    Attributes:
        prepare: turns the op's arrays into the rival's own, outside the clock (a butterfly into
            its dense matrix, say); its first array has the rows of the op's first.
        run: called as `run(*prepared)`; what is timed.
    """

    prepare: Callable[..., Arrays]
    run: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another way to do the job of an op.

    Attributes:
        name: unique for the op, and no name of an implementation.
        make: `make(spec)` gives the `Contender`; raises NotImplementedError with the reason where
            the rival has nothing to offer.
        same_function: whether it computes the op's own values, which are then compared with the
            oracle; otherwise it is another function of the same shape, compared in time alone.
        note: what it is, in a few words.
        framework: "jax", or "torch" (offered only where torch is installed).
        precision: precision it runs at where that is not the spec's own.
    """

    name: str
    make: Callable[[ArgSpec], Contender]
    same_function: bool
    note: str
    framework: Literal["jax", "torch"] = "jax"
    precision: str | None = None


def find_rivals(family: str, op: str) -> tuple[Rival, ...]:
    """All rivals of an op that can run here.

    Args:
        family: import path of the family, such as "structlayers.butterfly".
        op: the op's name.
    """
    path = f"experiments.{family.rpartition('.')[2]}"
    if importlib.util.find_spec(path) is None or importlib.util.find_spec(f"{path}.rivals") is None:
        return ()
    rivals = importlib.import_module(f"{path}.rivals").RIVALS.get(op, ())
    has_torch = importlib.util.find_spec("torch") is not None
    return tuple(rival for rival in rivals if has_torch or rival.framework != "torch")


def select_rivals(rivals: Sequence[Rival], names: Sequence[str] | None) -> tuple[Rival, ...]:
    """The rivals asked for.

    Args:
        rivals: those there are.
        names: None for all of them, ["none"] for none, else names.

    Raises:
        CommandError: unknown name.
    """
    if names is None:
        return tuple(rivals)
    if list(names) == ["none"]:
        return ()
    by_name = {rival.name: rival for rival in rivals}
    for name in names:
        if name not in by_name:
            raise suggest("rival", name, [*by_name, "none"])
    return tuple(by_name[name] for name in names)

"""What stands in one table: the implementations of an op and its rivals, made ready for a spec."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.bench.floors import compute_dtype, precision_name
from experiments.bench.loop import Arrays
from experiments.bench.registry import Operation
from experiments.bench.rivals import Rival
from structlayers._core.arg_spec import ArgSpec


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One thing to measure at one spec.

    Attributes:
        name: of the implementation or rival.
        kind: "implementation" or "rival".
        chosen: whether the op chooses it by itself.
        note: what a rival is.
        prepare: turns the op's arrays into this candidate's own, outside the clock.
        run: called as `run(*prepared)`.
        same_function: whether its values are the op's.
        framework: "jax" or "torch".
        precision: as in a row.
    """

    name: str
    kind: str
    chosen: bool
    note: str
    prepare: Callable[..., Arrays]
    run: Callable[..., Any]
    same_function: bool
    framework: str
    precision: str


def _unchanged(*arrays: Any) -> Arrays:
    return arrays


def make_candidates(
    operation: Operation,
    spec: ArgSpec,
    implementations: tuple[str, ...] | None,
    rivals: tuple[Rival, ...],
) -> tuple[list[Candidate], dict[str, str]]:
    """Implementations and rivals that can serve a spec, and why the others cannot.

    Args:
        operation: the op.
        spec: the shapes.
        implementations: names asked for; None for all but the reference, which is the oracle.
        rivals: the rivals asked for.

    Returns:
        The candidates, and a reason by name for each one left out.
    """
    precision = precision_name(compute_dtype(spec.arrays), spec.static.get("precision"))
    _, choice = operation.trace(spec, None)
    names: tuple[str | None, ...]
    if implementations is not None:
        names = implementations
    elif operation.dispatcher is None:
        names = (None,)
    else:
        names = tuple(name for name in operation.implementations() if name != "reference")
    candidates: list[Candidate] = []
    refusals: dict[str, str] = {}
    for name in names:
        try:
            operation.trace(spec, name)
        except NotImplementedError as error:
            refusals[str(name)] = str(error)
            continue
        except Exception:  # a bug, not a refusal: measuring it will fail, and say so in its row
            pass
        candidates.append(
            Candidate(
                name or operation.name,
                "implementation",
                name is None or choice is None or choice.name == name,
                "",
                _unchanged,
                operation.bind(spec, name),
                True,
                "jax",
                precision,
            )
        )
    for rival in rivals:
        try:
            contender = rival.make(spec)
        except NotImplementedError as error:
            refusals[rival.name] = str(error)
            continue
        candidates.append(
            Candidate(
                rival.name,
                "rival",
                False,
                rival.note,
                contender.prepare,
                contender.run,
                rival.same_function,
                rival.framework,
                rival.precision or precision,
            )
        )
    return candidates, refusals

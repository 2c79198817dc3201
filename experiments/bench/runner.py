"""A whole run: every spec and mode, every candidate, one row each."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from experiments.bench import candidates, floors, measure, oracle
from experiments.bench.candidates import Candidate
from experiments.bench.inputs import draw_tree, make_arrays
from experiments.bench.modes import Mode, differentiable
from experiments.bench.registry import Operation
from experiments.bench.rivals import Rival
from experiments.bench.store import Row
from experiments.errors import CommandError
from experiments.runner import provenance
from structlayers._core.arg_spec import ArgSpec


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        operation: the op.
        specs: its shapes.
        modes: "forward", "forward_backward" or both.
        implementations: names asked for; None for all but the reference.
        rivals: rivals to measure beside them.
        effort: how long.
        ceilings: as `measure_ceilings` gives them.
        command: command line, for the rows.
        precision: replaces the precision of the specs; None keeps it.
        compare: whether values are compared with the reference, which takes longer than to time.
    """

    operation: Operation
    specs: Sequence[ArgSpec]
    modes: Sequence[Mode]
    implementations: tuple[str, ...] | None
    rivals: tuple[Rival, ...]
    effort: measure.Effort
    ceilings: Mapping[str, float]
    command: str
    precision: str | None = None
    compare: bool = True


def with_precision(spec: ArgSpec, precision: str | None) -> ArgSpec:
    """The spec at another precision of float32 products; other dtypes are left as they are."""
    if precision is None or floors.compute_dtype(spec.arrays) not in ("float32", "complex64"):
        return spec
    return dataclasses.replace(spec, static={**spec.static, "precision": precision})


def make_job(
    operation: Operation, spec: ArgSpec, mode: Mode, *, compare: bool = True
) -> measure.Job:
    """Inputs and oracle of one spec in one mode.

    Args:
        operation: the op.
        spec: the shapes.
        mode: "forward" or "forward_backward".
        compare: whether to compute the oracle.
    """
    result, _ = operation.trace(spec, None)
    cotangent = None
    if mode == "forward_backward":
        key = jax.random.fold_in(jax.random.key(2), len(spec.name))
        cotangent = draw_tree(key, result, f"cotangent of {spec.name}")

    def draw_set(index: int) -> tuple[Any, ...]:
        return make_arrays(spec, operation.make_inputs, index)

    if not compare:
        return measure.Job(mode, draw_set, cotangent, "not compared")
    return measure.Job(mode, draw_set, cotangent, _oracle(operation, spec, mode, result, cotangent))


def _oracle(
    operation: Operation, spec: ArgSpec, mode: Mode, result: Any, cotangent: Any
) -> oracle.Oracle | str:
    if operation.dispatcher is None:
        implementation, source = None, "against itself in float64"
    elif "reference" in operation.implementations():
        implementation, source = "reference", ""
    else:
        return "no reference implementation"
    try:
        rows = oracle.choose_rows(spec.arrays, result, spec.operations)
    except NotImplementedError as error:
        return str(error)
    if rows is not None and not spec.row_arrays:
        return "the reference is too large here, and its rows depend on each other"
    arrays = make_arrays(spec, operation.make_inputs)
    reference = operation.bind(spec, implementation)
    return oracle.compute_oracle(reference, arrays, mode, rows, cotangent, source, spec.row_arrays)


def run(
    plan: Plan, say: Callable[[str], None] = lambda _: None, refused: dict[str, str] | None = None
) -> Iterator[Row]:
    """Measures everything in a plan, one row at a time.

    Args:
        plan: what to measure.
        say: told what is measured next.
        refused: filled with the reason for each candidate that cannot serve, by
            "spec: candidate".

    Yields:
        A `Row` for each candidate; one that failed while it was measured has `failure` set.

    Raises:
        CommandError: the gradients of an op that has none are asked for.
    """
    platform = jax.default_backend()
    common = {
        "device": provenance.device(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": plan.command,
        "ceilings": dict(plan.ceilings),
    }
    for spec in plan.specs:
        spec = with_precision(spec, plan.precision)
        found, refusals = candidates.make_candidates(
            plan.operation, spec, plan.implementations, plan.rivals
        )
        if refused is not None:
            refused.update({f"{spec.name}: {name}": why for name, why in refusals.items()})
        result, _ = plan.operation.trace(spec, None)
        for mode in plan.modes if found else ():
            if mode == "forward_backward" and not differentiable(result):
                if len(plan.modes) > 1:
                    continue
                raise CommandError(
                    f"--mode {mode}: the result of {spec.name} is made of "
                    f"{', '.join(str(leaf.dtype) for leaf in jax.tree.leaves(result))}; "
                    f"expected floating point"
                )
            say(f"{spec.name} {mode}: oracle")
            job = make_job(plan.operation, spec, mode, compare=plan.compare)
            for candidate in found:
                say(f"{spec.name} {mode}: {candidate.name}")
                # Every row of a spec is held against the floor of the op at the spec's precision.
                precision = precision_of(spec)
                floor = floors.compute_floor(spec, result, mode, precision, platform, plan.ceilings)
                yield _row(plan, spec, job, candidate, floor, common)


def precision_of(spec: ArgSpec) -> str:
    """Precision of the products of a spec, as rows state it."""
    dtype = floors.compute_dtype(spec.arrays)
    return floors.precision_name(dtype, spec.static.get("precision"))


def _row(
    plan: Plan,
    spec: ArgSpec,
    job: measure.Job,
    candidate: Candidate,
    floor: floors.Floor,
    common: Mapping[str, Any],
) -> Row:
    values: dict[str, Any] = {
        "op": plan.operation.name,
        "spec": spec.name,
        "implementation": candidate.name,
        "kind": candidate.kind,
        "chosen": candidate.chosen,
        "note": candidate.note,
        "mode": job.mode,
        "dtype": str(floors.compute_dtype(spec.arrays)),
        "precision": candidate.precision,
        "unit": floor.unit,
        "bytes": floor.bytes,
        "operations": floor.operations,
        "floor_seconds": floor.seconds,
        "bound": floor.bound,
        "date": provenance.date(),
        **common,
    }
    try:
        found = measure.measure(candidate, job, plan.effort)
    except Exception as error:  # one candidate that runs out of memory must not end the table
        lines = str(error).splitlines() or [""]
        return Row(
            **values,
            seconds_median=None,
            spread=None,
            share=None,
            compile_seconds=None,
            peak_bytes=None,
            error=None,
            error_scope="not compared",
            program=None,
            timer=plan.effort.timer,
            calls=0,
            sets=0,
            cache="cold",
            overhead_seconds=0.0,
            launched_seconds=None,
            failure=f"{type(error).__name__}: {lines[0]}",
        )
    timing = found.timing
    median = timing.median if timing.resolved else None
    return Row(
        **values,
        seconds_median=median,
        spread=timing.spread(),
        share=floor.seconds / median if median else None,
        compile_seconds=found.compile_seconds,
        peak_bytes=found.peak_bytes,
        error=found.error,
        error_scope=found.error_scope,
        program=found.program,
        timer=timing.timer,
        calls=timing.calls,
        sets=timing.sets,
        cache=timing.cache,
        overhead_seconds=timing.overhead_seconds,
        launched_seconds=timing.launched_seconds,
        failure="",
    )

"""Measuring one candidate: compile time, memory, error, device time."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from experiments.bench import profiler, torch_peer
from experiments.bench.candidates import Candidate
from experiments.bench.floors import bytes_of
from experiments.bench.inputs import draw_tree
from experiments.bench.loop import Arrays
from experiments.bench.modes import Mode, with_gradients
from experiments.bench.oracle import Oracle, mask_cotangent
from experiments.bench.programs import program_digest
from experiments.bench.timing import MAX_SETS, Timing, plan_sets, time_loop

DIFFERENT = "different function, same shape"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long and by which timer to measure.

    Attributes:
        repeats: number of samples.
        target_seconds: length of a sample.
        timer: "loop" or "profiler".
    """

    repeats: int
    target_seconds: float
    timer: Literal["loop", "profiler"] = "loop"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was found out about one candidate.

    Attributes:
        timing: device time.
        compile_seconds: tracing, lowering and compiling; None for torch.
        peak_bytes: arguments, results and temporaries; None where not known.
        error: largest error ratio, or None.
        error_scope: what was compared, or why nothing was.
        program: digest of the compiled program; None for torch.
    """

    timing: Timing
    compile_seconds: float | None
    peak_bytes: int | None
    error: float | None
    error_scope: str
    program: str | None


@dataclasses.dataclass(frozen=True)
class Job:
    """One spec in one mode, the same for all candidates.

    Attributes:
        mode: "forward" or "forward_backward".
        draw_set: makes the input set of that number.
        cotangent: shared cotangent, shaped as the op's result; None in forward mode.
        oracle: float64 values, or the reason why there are none.
    """

    mode: Mode
    draw_set: Callable[[int], Arrays]
    cotangent: Any
    oracle: Oracle | str


def peak_bytes(compiled: Any) -> int | None:
    """Most memory that a compiled function holds: arguments, results, temporaries."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    total = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        - stats.alias_size_in_bytes
    )
    return max(total, getattr(stats, "peak_memory_in_bytes", 0))


def _cotangent_for(job: Job, result: Any) -> Any:
    """The shared cotangent, or for a result of another dtype or shape one of its own."""
    leaves = [jax.tree.leaves(tree) for tree in (job.cotangent, result)]
    shapes = [[(leaf.shape, leaf.dtype) for leaf in tree] for tree in leaves]
    if shapes[0] == shapes[1]:
        return job.cotangent
    return draw_tree(jax.random.key(1), result, "cotangent")


def _error(candidate: Candidate, job: Job, value: Any) -> tuple[float | None, str]:
    if not candidate.same_function:
        return None, DIFFERENT
    if isinstance(job.oracle, str):
        return None, job.oracle
    if candidate.kind == "implementation":
        kinds = "" if job.mode == "forward" else ", result and gradients"
        return job.oracle.error(value), job.oracle.scope + kinds
    # A rival may have inputs, and so gradients, of its own: its result is compared.
    result = value if job.mode == "forward" else value[0]
    return job.oracle.result_error(result), job.oracle.scope + ", result"


def measure(candidate: Candidate, job: Job, effort: Effort) -> Measurement:
    """Measures one candidate.

    Args:
        candidate: what to measure.
        job: at which arrays.
        effort: how long.

    Returns:
        The `Measurement`.
    """
    if candidate.framework == "torch":
        return _measure_torch(candidate, job, effort)
    platform = jax.default_backend()
    prepare = jax.jit(candidate.prepare) if candidate.kind == "rival" else candidate.prepare
    first = tuple(prepare(*job.draw_set(0)))
    fn, extra = candidate.run, ()
    if job.mode == "forward_backward":
        cotangent = _cotangent_for(job, jax.eval_shape(candidate.run, *first))
        fn, extra = with_gradients(candidate.run), (cotangent,)

    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*first, *extra).compile()
    compile_seconds = time.perf_counter() - start

    checked = extra
    if extra and isinstance(job.oracle, Oracle) and candidate.same_function:
        checked = tuple(mask_cotangent(tree, job.oracle.rows) for tree in extra)
    value = compiled(*first, *checked)
    error, scope = _error(candidate, job, value)

    limit = profiler.MAX_SETS if effort.timer == "profiler" else MAX_SETS
    num_sets, cache = plan_sets(bytes_of((first, extra, value)), platform, limit)
    del value
    sets = [(*first, *extra)]
    for index in range(1, num_sets):
        # The cotangent is copied: every set has buffers of its own.
        own = tuple(jax.tree.map(lambda leaf: leaf.copy(), tree) for tree in extra)
        sets.append((*prepare(*job.draw_set(index)), *own))
    if effort.timer == "profiler":
        timing = profiler.time_profiler(compiled, sets, cache, repeats=effort.repeats)
    else:
        timing = time_loop(
            fn,
            sets,
            cache,
            repeats=effort.repeats,
            target_seconds=effort.target_seconds,
            single=compiled,
        )
    program = program_digest(compiled)
    return Measurement(timing, compile_seconds, peak_bytes(compiled), error, scope, program)


def _measure_torch(candidate: Candidate, job: Job, effort: Effort) -> Measurement:
    platform = jax.default_backend()
    device = torch_peer.torch_device(platform)
    torch_peer.set_precision(candidate.precision)
    prepare = jax.jit(candidate.prepare)

    def tensors(index: int) -> Arrays:
        return torch_peer.to_torch(tuple(prepare(*job.draw_set(index))), device)

    first = tensors(0)
    fn, extra = candidate.run, ()
    result = fn(*first)
    if job.mode == "forward_backward":
        fn = torch_peer.with_torch_gradients(candidate.run)
        cotangent = np.random.default_rng(1).standard_normal(tuple(result.shape))
        extra = (torch_peer.to_torch(cotangent, device).to(result.dtype),)
    value = torch_peer.to_numpy(result)
    error, scope = _error(candidate, dataclasses.replace(job, mode="forward"), value)
    size = sum(t.numel() * t.element_size() for t in (*first, *extra, result))
    num_sets, cache = plan_sets(size, platform)
    sets = [(*first, *extra), *((*tensors(index), *extra) for index in range(1, num_sets))]
    timing, peak = torch_peer.time_torch(
        fn, sets, cache, repeats=effort.repeats, target_seconds=effort.target_seconds
    )
    return Measurement(timing, None, peak, error, scope, None)

"""Compiling one function for one target, inside the process that holds the compiler."""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from structlayers._core.dispatch import assume_platform
from structlayers.testing.tpu.dumps import clear_dumps, read_schedule
from structlayers.testing.tpu.estimates import estimate
from structlayers.testing.tpu.grids import grid_steps
from structlayers.testing.tpu.rows import GateRow
from structlayers.testing.tpu.targets import Target

_INSTRUCTION = re.compile(r" *(?:ROOT )?%(\S+) = ")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# What XLA writes in place of an estimate that it does not have.
_NO_ESTIMATE = 2**63 - 1
_ERROR_LENGTH = 700


def compile_for_target(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    static: Mapping[str, Any],
    target: Target,
    dumps: Path,
) -> GateRow:
    """Lowers and compiles ``function(*args, **static)`` for one device of `target`.

    Args:
        function: what to compile.
        args: pytrees of `jax.ShapeDtypeStruct`.
        static: keyword arguments.
        target: the generation to compile for.
        dumps: folder that the compiler writes its schedules to.

    Returns:
        The row; an exception of tracing, lowering or compilation becomes its `error`.
    """
    clear_dumps(dumps)
    # A trace may depend on the target: kernels ask for its VMEM size, dispatch for the platform.
    jax.clear_caches()
    start = time.perf_counter()
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
        mesh = Mesh(np.array(topology.devices[:1]), ("device",))
        sharding = NamedSharding(mesh, PartitionSpec())
        args = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), args
        )
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), assume_platform("tpu"):
            traced = jax.jit(functools.partial(function, **static)).trace(*args)
            lowered = traced.lower()
        compiled = lowered.compile()
    except Exception as error:
        seconds = time.perf_counter() - start
        return GateRow(target.name, False, shorten_error(error), compile_seconds=seconds)
    seconds = time.perf_counter() - start

    sizes, text = compiled.memory_analysis(), compiled.as_text()
    if sizes is None or text is None:
        missing = "memory analysis" if sizes is None else "optimised HLO"
        error = f"compiled, but the compiler gave no {missing}"
        return GateRow(target.name, False, error, compile_seconds=seconds)
    memory = {
        "argument": sizes.argument_size_in_bytes,
        "output": sizes.output_size_in_bytes,
        "alias": sizes.alias_size_in_bytes,
        "temp": sizes.temp_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    module = read_module(text)
    grids = grid_steps(traced.jaxpr)
    kernels = tuple(
        read_schedule(dumps, name, branch_delay=target.branch_delay, grids=grids)
        for name in module.kernels
    )
    cost = compiled.cost_analysis() or {}
    return GateRow(
        target.name,
        compiled=True,
        memory=memory,
        kernels=kernels,
        xla_optimal_seconds=module.trusted_time(cost.get("optimal_seconds")),
        compile_seconds=seconds,
        notes=module.notes,
        **estimate(kernels, memory, module.xla_cycles, target),
    )


@dataclasses.dataclass(frozen=True)
class Module:
    """What an optimised HLO module says of itself.

    Attributes:
        kernels: names of the Pallas kernels, in the order of the text.
        xla_cycles: the compiler's estimate of all other instructions; None if it has none.
        priced: whether XLA's cost analysis knows every instruction.
        notes: what sums over instructions leave out.
    """

    kernels: tuple[str, ...]
    xla_cycles: int | None
    priced: bool
    notes: tuple[str, ...]

    def trusted_time(self, seconds: float | None) -> float | None:
        """XLA's time, if it is one: an instruction that it cannot price counts -1 s."""
        return float(seconds) if seconds is not None and self.priced and seconds > 0 else None


def read_module(hlo: str) -> Module:
    """Reads the text of an optimised HLO module."""
    kernels: list[str] = []
    repeated: list[str] = []
    cycles: list[int] = []
    unknown: list[str] = []
    in_entry = False
    for line in hlo.splitlines():
        in_entry = line.startswith("ENTRY ") or (in_entry and line != "}")
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            continue
        estimated = _CYCLES.search(line)
        if 'custom_call_target="tpu_custom_call"' in line:
            kernels.append(instruction[1])
        elif estimated:
            cycles.append(int(estimated[1]))
            unknown += [instruction[1]] * (cycles[-1] == _NO_ESTIMATE)
        else:
            continue
        if not in_entry:
            repeated.append(instruction[1])
    notes = []
    if repeated:
        shown = ", ".join(repeated[:4]) + (" ..." if len(repeated) > 4 else "")
        notes.append(f"inside a loop or branch of XLA, counted once: {shown}")
    if unknown:
        notes.append(f"XLA has no estimate of {', '.join(unknown[:4])}")
    return Module(
        tuple(kernels),
        sum(cycles) if cycles and not unknown else None,
        " custom-call(" not in hlo,
        tuple(notes),
    )


def shorten_error(error: BaseException) -> str:
    r"""The part of a compiler's message that says what is wrong, in one line.

    Example:
        >>> shorten_error(ValueError("no such tile\n\nThe MLIR operation involved:\n  %1"))
        'ValueError: no such tile'
    """
    text = str(error).split("The MLIR operation involved")[0].split("Stack trace:")[0]
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("See http")]
    text = f"{type(error).__name__}: {' '.join(' '.join(lines).split())}"
    return text if len(text) <= _ERROR_LENGTH else f"{text[:_ERROR_LENGTH]} [...]"

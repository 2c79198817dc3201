"""Seconds from static schedules and datasheets: compiled estimates, never measurements.

For the Pallas kernels ``k`` of a program, and for its instructions ``i`` of XLA:

    estimated_seconds = max(sum_k cycles_k / clock, (argument + output bytes) / HBM bandwidth)
    xla_estimated_seconds = sum_i estimated_cycles_i / clock.

`cycles` counts code under a condition as run each time (it overcounts what only the first or the
last step does), and counts no wait for memory or for another unit (it undercounts those). Bytes
count each argument and output once, however often a kernel reads a block again.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from structlayers.testing.tpu.rows import KernelSchedule
from structlayers.testing.tpu.targets import Target


class Estimates(TypedDict):
    """Fields of `GateRow` that sum over the kernels or turn cycles into time."""

    bundles: int | None
    mxu_share: float | None
    spills: int | None
    estimated_seconds: float | None
    xla_estimated_seconds: float | None
    simulated_seconds: float | None


def estimate(
    kernels: Sequence[KernelSchedule],
    memory: Mapping[str, int],
    xla_cycles: int | None,
    target: Target,
) -> Estimates:
    """Sums over the kernels, and times on `target`.

    Args:
        kernels: schedules of all kernels of the program.
        memory: bytes by use.
        xla_cycles: the compiler's estimate of all other instructions, or None.
        target: the generation, with clock and bandwidth.

    Returns:
        The estimates; one that needs a figure which is not there is None.
    """
    cycles = _total([kernel.cycles for kernel in kernels])
    simulated = _total([kernel.simulated_cycles for kernel in kernels])
    busy = [
        None
        if kernel.mxu_share is None or kernel.cycles is None
        else kernel.mxu_share * kernel.cycles
        for kernel in kernels
    ]
    mxu_cycles = _total(busy)
    transfer = (memory["argument"] + memory["output"]) / target.bandwidth
    return Estimates(
        bundles=_total([kernel.bundles for kernel in kernels]),
        mxu_share=mxu_cycles / cycles if mxu_cycles is not None and cycles else None,
        spills=_total([kernel.spills for kernel in kernels]),
        estimated_seconds=None if cycles is None else max(cycles / target.clock, transfer),
        xla_estimated_seconds=None if xla_cycles is None else xla_cycles / target.clock,
        simulated_seconds=None if simulated is None else simulated / target.clock,
    )


def _total[T: (int, float)](values: Sequence[T | None]) -> T | None:
    total: T | None = None
    for value in values:
        if value is None:
            return None
        total = value if total is None else total + value
    return total

"""What the gate answers: a row per target, with the static schedule of each Pallas kernel."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a kernel's schedule.

    Attributes:
        bundles: cycles of one pass of the body, inner loops counted once.
        trips: passes per entry; None where the compiler's schedule has no constant for it.
    """

    bundles: int
    trips: int | None


@dataclasses.dataclass(frozen=True)
class KernelSchedule:
    """The static schedule of one Pallas kernel, read from the compiler's dumps.

    Attributes:
        name: HLO instruction of the kernel.
        bundles: VLIW bundles of the whole program, every loop body once; None if unknown.
        empty_bundles: bundles with no instruction in them.
        grid_steps: steps of the grid that one TensorCore takes.
        cycles: one cycle per bundle and per delay slot, each times the trips of its loops.
        loops: every loop, in the order of the program.
        mxu_share: share of `cycles` in which the matrix units take operands, mean over the units.
        slots: share of the issue slots in use over `cycles`, by unit ("valu", "vload", ...).
        spills: stores of vector registers that did not fit, in the program.
        fills: loads that bring them back, in the program.
        simulated_cycles: the compiler's own simulation, waits for memory included, if asked for.
        notes: what could not be read and why, and what the figures leave out.
    """

    name: str
    bundles: int | None = None
    empty_bundles: int | None = None
    grid_steps: int | None = None
    cycles: int | None = None
    loops: tuple[Loop, ...] = ()
    mxu_share: float | None = None
    slots: Mapping[str, float] = dataclasses.field(default_factory=dict)
    spills: int | None = None
    fills: int | None = None
    simulated_cycles: int | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class GateRow:
    """What became of one function on one target.

    Every time is a compiled estimate: nothing here was measured.

    Attributes:
        target: the TPU generation.
        compiled: whether the compiler accepted it.
        error: the compiler's message, shortened; None if it compiled.
        memory: bytes by use: "argument", "output", "alias", "temp", "code".
        kernels: the Pallas kernels, in the order of the program.
        bundles: sum over the kernels; None without kernels, or if one is unknown.
        mxu_share: mean over the kernels, weighted by their cycles.
        spills: sum over the kernels.
        estimated_seconds: of the Pallas kernels: the larger of their cycles over the clock, and
            of the bytes of arguments and outputs over the HBM bandwidth. None without kernels.
        xla_estimated_seconds: of all other instructions: the cycles that the compiler estimates
            for them over the clock. None if there are none.
        xla_optimal_seconds: of XLA's cost analysis, a roofline; None if it lacks an instruction.
        simulated_seconds: the kernels' simulated cycles over the clock, if asked for.
        compile_seconds: wall time of lowering and compilation.
        notes: what could not be read and why, and what the figures leave out.
    """

    target: str
    compiled: bool
    error: str | None = None
    memory: Mapping[str, int] | None = None
    kernels: tuple[KernelSchedule, ...] = ()
    bundles: int | None = None
    mxu_share: float | None = None
    spills: int | None = None
    estimated_seconds: float | None = None
    xla_estimated_seconds: float | None = None
    xla_optimal_seconds: float | None = None
    simulated_seconds: float | None = None
    compile_seconds: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values.

        Example:
            >>> GateRow.from_json(GateRow("v4", False, "no").to_json()).error
            'no'
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "GateRow":
        """The row back from `to_json`, also after a trip through JSON text."""
        kernels = []
        for kernel in values["kernels"]:
            fields = dict(kernel)
            fields["loops"] = tuple(Loop(**loop) for loop in kernel["loops"])
            fields["notes"] = tuple(kernel["notes"])
            kernels.append(KernelSchedule(**fields))
        row = dict(values)
        row["kernels"] = tuple(kernels)
        row["notes"] = tuple(values["notes"])
        return cls(**row)

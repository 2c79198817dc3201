"""Config of the speed experiment."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.bench.modes import Mode
from experiments.experiment import Lines
from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant.arg_specs import ARG_SPECS

if TYPE_CHECKING:
    from experiments.equivariant.speed.experiment import SpeedExperiment

PRECISIONS = ("highest", "tf32", "3xtf32", "bf16")

_SPECS = {spec.name: spec for spec in ARG_SPECS}


@dataclass(frozen=True)
class Cell:
    """What is measured together: a shape, a mode and a precision of its products."""

    spec: ArgSpec
    mode: Mode
    precision: str


@dataclass(frozen=True)
class SpeedConfig(Lines):
    """Times of `gaunt_tensor_product` and `many_body_product`, and of their rivals.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        forward: names in structlayers/equivariant/arg_specs.py that are measured without gradients.
        both: those measured with all gradients.
        precisions: of float32 signals; those of bfloat16 are measured in "bf16" alone.
        candidates: implementations and rivals that are measured beside what the op chooses; where
            one cannot serve, it is left out.
        repeats: samples of each time.
        sample_seconds: length of a sample of the loop.
        timer: "loop" on the device, or "profiler" for kernels alone (GPU).
    """

    family: str = "equivariant"
    experiment: str = "speed_gpu"
    forward: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("tf32", "3xtf32")
    candidates: tuple[str, ...] = ("xla", "pallas_gpu")
    repeats: int = 12
    sample_seconds: float = 20e-3
    timer: Literal["loop", "profiler"] = "loop"

    def __post_init__(self) -> None:
        """Refuses shapes and precisions that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.forward and not self.both:
            raise ValueError("forward and both must not both be empty")
        known = {"forward": tuple(_SPECS), "both": tuple(_SPECS), "precisions": PRECISIONS}
        for which, names in known.items():
            for name in getattr(self, which):
                if name not in names:
                    raise ValueError(f"{which} must be among {', '.join(names)}; got {name!r}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def cells(self) -> tuple[Cell, ...]:
        """All that is measured, in order."""
        modes: tuple[tuple[Mode, tuple[str, ...]], ...] = (
            ("forward", self.forward),
            ("forward_backward", self.both),
        )
        return tuple(
            Cell(spec, mode, precision)
            for mode, names in modes
            for spec in map(_SPECS.__getitem__, names)
            for precision in (
                ("bf16",) if str(spec.arrays[0].dtype) == "bfloat16" else self.precisions
            )
        )

    def build(self) -> "SpeedExperiment":
        """The experiment: one phase a cell."""
        from experiments.equivariant.speed.experiment import SpeedExperiment

        return SpeedExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one small shape, few samples."""
        return replace(
            self,
            forward=("gaunt_l3_l1_l2_b7_float32",),
            both=(),
            precisions=("highest",),
            candidates=("xla", "clebsch_gordan"),
            repeats=3,
            sample_seconds=2e-3,
            timer="loop",
            at_least=(),
            at_most=(),
        )

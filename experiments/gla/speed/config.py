"""Config of the speed experiment."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.bench.modes import Mode
from experiments.experiment import Lines
from structlayers._core.arg_spec import ArgSpec
from structlayers.gla.arg_specs import ARG_SPECS

if TYPE_CHECKING:
    from experiments.gla.speed.experiment import SpeedExperiment

MODES: tuple[Mode, ...] = ("forward", "forward_backward")

# Implementations and rivals that can be measured; what the op chooses always is.
CANDIDATES = (
    "xla",
    "pallas_gpu",
    "xla_attention",
    "cudnn_attention",
    "cudnn_attention_128",
    "fla",
)

_SPECS = {spec.name: spec for spec in ARG_SPECS}


@dataclass(frozen=True)
class SpeedConfig(Lines):
    """Times of `gated_linear_attention`, of its step, and of their rivals.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        shapes: names in structlayers/gla/arg_specs.py; those of one token ("step_...") are measured
            forward only.
        modes: "forward", "forward_backward" or both.
        candidates: what is measured beside what the op chooses, of `CANDIDATES`; where one is not
            offered, it is left out. "fla" needs torch and flash-linear-attention, whose first call
            at a shape tunes for minutes.
        repeats: samples of each time.
        sample_seconds: length of a sample of the loop.
        timer: "loop" on the device, or "profiler" for kernels alone (GPU).
        compare: whether every value is also compared with the float64 reference.
    """

    family: str = "gla"
    experiment: str = "speed_gpu"
    shapes: tuple[str, ...] = ("gla_b8_t2048_h4_k128_v256_bfloat16",)
    modes: tuple[Mode, ...] = MODES
    candidates: tuple[str, ...] = CANDIDATES[:-1]
    repeats: int = 30
    sample_seconds: float = 20e-3
    timer: Literal["loop", "profiler"] = "loop"
    compare: bool = False

    def __post_init__(self) -> None:
        """Refuses shapes and candidates that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.shapes or not self.modes:
            raise ValueError("shapes and modes must each name at least one")
        for which, known in (("shapes", tuple(_SPECS)), ("candidates", CANDIDATES)):
            for name in getattr(self, which):
                if name not in known:
                    raise ValueError(f"{which} must be among {', '.join(known)}; got {name!r}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def cells(self) -> tuple[tuple[ArgSpec, Mode], ...]:
        """Shapes and modes to measure, in order."""
        specs = [_SPECS[name] for name in self.shapes]
        return tuple(
            (spec, mode)
            for spec in specs
            for mode in self.modes
            if mode == "forward" or spec.op == "gated_linear_attention"
        )

    def build(self) -> "SpeedExperiment":
        """The experiment: one phase a shape and mode."""
        from experiments.gla.speed.experiment import SpeedExperiment

        return SpeedExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one small shape, few samples."""
        return replace(
            self,
            shapes=("gla_b2_t63_h2_k16_v24_float32",),
            modes=("forward",),
            candidates=("xla_attention",),
            repeats=3,
            sample_seconds=2e-3,
            timer="loop",
            at_least=(),
            at_most=(),
        )

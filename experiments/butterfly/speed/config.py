"""Config of the speed experiment."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.butterfly.speed.experiment import SpeedExperiment

SIZES = tuple(2**level for level in range(6, 15))

type Mode = Literal["forward", "forward_backward"]
type Dtype = Literal["float32", "bfloat16", "complex64"]


@dataclass(frozen=True)
class Group:
    """A sweep over sizes at one dtype and batch.

    Attributes:
        dtype: of the vectors; bfloat16 comes with float32 weights, float32 is multiplied as such.
        batch: number of vectors.
        sizes: transform sizes.
        modes: the product alone, or with the gradients of vectors and weights.
    """

    dtype: Dtype
    batch: int
    sizes: tuple[int, ...] = SIZES
    modes: tuple[Mode, ...] = ("forward", "forward_backward")

    @property
    def key(self) -> str:
        """E.g. "float32/b256"."""
        return f"{self.dtype}/b{self.batch}"


@dataclass(frozen=True)
class SpeedConfig:
    """Times of `butterfly_multiply` and of its rivals.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        groups: sweeps, each with the sizes at which it is measured.
        only: groups to measure, as DTYPE/bBATCH; all if empty.
        max_size: sizes above are left out.
        rivals: what stands beside the op, by the names in experiments/butterfly/rivals.py.
        materialize_up_to: implementation "dense" is measured up to this size, and where it is
            chosen: it makes the matrix in every call.
        host: whether NumPy's FFT and matrix product are timed too, called from Python.
        repeats: samples of each time.
        sample_seconds: length of a sample.
        timer: "loop" on the device, or "profiler" for kernels alone (GPU).
        compare: whether every value is also compared with the float64 reference.
        paper_table: which of the paper's tables the picture shows, and at which group.
        at_least: metrics and the least value they are to have.
        at_most: metrics and the largest value they are to have.
    """

    family: str = "butterfly"
    experiment: str = "speed_gpu"
    groups: tuple[Group, ...] = (Group("float32", 256),)
    only: tuple[str, ...] = ()
    max_size: int = 16384
    rivals: tuple[str, ...] = ("matmul", "matmul_tf32", "fft", "two_matmuls", "stage_loop")
    materialize_up_to: int = 1024
    host: bool = False
    repeats: int = 50
    sample_seconds: float = 20e-3
    timer: Literal["loop", "profiler"] = "loop"
    compare: bool = False
    paper_table: tuple[str, str] = ("training", "float32/b256/forward_backward")
    at_least: tuple[tuple[str, float], ...] = ()
    at_most: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuses names of groups that are not there, and sizes that are no powers of two.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        known = [group.key for group in self.groups]
        for name in self.only:
            if name not in known:
                raise ValueError(f"only must be among {', '.join(known)}; got {name!r}")
        for group in self.groups:
            for n in group.sizes:
                if n < 2 or n & (n - 1):
                    raise ValueError(f"sizes must be powers of two, at least 2; got {n}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    @property
    def measured_groups(self) -> tuple[Group, ...]:
        """The groups that are measured, with the sizes that are."""
        return tuple(
            replace(group, sizes=tuple(n for n in group.sizes if n <= self.max_size))
            for group in self.groups
            if not self.only or group.key in self.only
        )

    def build(self) -> "SpeedExperiment":
        """The experiment: one phase a group, mode and size."""
        from experiments.butterfly.speed.experiment import SpeedExperiment

        return SpeedExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one size, the product alone, few samples."""
        group = replace(self.groups[0], batch=16, sizes=(64,), modes=("forward",))
        return replace(
            self,
            groups=(group,),
            only=(),
            rivals=self.rivals[:1],
            repeats=3,
            sample_seconds=2e-3,
            paper_table=(self.paper_table[0], f"{group.key}/forward"),
            at_least=(),
            at_most=(),
        )

    def goals(self) -> tuple[Goal, ...]:
        """The lines of the config."""
        return tuple(Goal(name, bound, ">=") for name, bound in self.at_least) + tuple(
            Goal(name, bound, "<=") for name, bound in self.at_most
        )

"""Config of the speed experiment."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.experiment import Lines

if TYPE_CHECKING:
    from experiments.butterfly.speed.experiment import SpeedExperiment

type Mode = Literal["forward", "forward_backward"]

SIZES = tuple(2**level for level in range(6, 15))
DTYPES = ("float32", "bfloat16", "complex64")
MODES: tuple[Mode, ...] = ("forward", "forward_backward")


@dataclass(frozen=True)
class Sweep:
    """Sizes at one dtype and batch, the product alone or with all gradients.

    Attributes:
        dtype: of the vectors; bfloat16 comes with float32 weights, float32 is multiplied as such.
        batch: number of vectors.
        mode: "forward" or "forward_backward".
    """

    dtype: str
    batch: int
    mode: Mode

    @classmethod
    def parse(cls, name: str) -> "Sweep":
        """A sweep by its name, DTYPE/bBATCH/MODE.

        Raises:
            ValueError: gives the form and the names.

        Example:
            >>> Sweep.parse("float32/b256/forward")
            Sweep(dtype='float32', batch=256, mode='forward')
        """
        dtype, _, rest = name.partition("/b")
        batch, _, mode = rest.partition("/")
        if dtype not in DTYPES or mode not in MODES or not batch.isdecimal() or int(batch) < 1:
            raise ValueError(
                f"sweeps must be DTYPE/bBATCH/MODE with DTYPE of {', '.join(DTYPES)} and MODE of "
                f"{', '.join(MODES)}, such as float32/b256/forward; got {name!r}"
            )
        return cls(dtype, int(batch), MODES[MODES.index(mode)])

    def key(self, n: int) -> str:
        """Start of the metrics of one size, e.g. "float32/b256/n01024/forward"."""
        return f"{self.dtype}/b{self.batch}/n{n:05d}/{self.mode}"


@dataclass(frozen=True)
class SpeedConfig(Lines):
    """Times of `butterfly_multiply` and of its rivals.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        sweeps: what is measured at every size, as DTYPE/bBATCH/MODE, see `Sweep`.
        sizes: transform sizes N.
        rivals: what stands beside the op, by the names in experiments/butterfly/rivals.py.
        materialize_up_to: implementation "dense" is measured up to this size, and where it is
            chosen: it makes the matrix in every call.
        host: whether NumPy's FFT and matrix product are timed too, called from Python.
        repeats: samples of each time.
        sample_seconds: length of a sample.
        timer: "loop" on the device, or "profiler" for kernels alone (GPU).
        compare: whether every value is also compared with the float64 reference.
        paper_table: which of the paper's tables the picture shows.
        paper_sweep: in whose panel.
    """

    family: str = "butterfly"
    experiment: str = "speed_gpu"
    sweeps: tuple[str, ...] = ("float32/b256/forward", "float32/b256/forward_backward")
    sizes: tuple[int, ...] = SIZES
    rivals: tuple[str, ...] = (
        "matmul",
        "matmul_tf32",
        "fft",
        "two_matmuls",
        "stage_loop",
        "copy",
    )
    materialize_up_to: int = 1024
    host: bool = False
    repeats: int = 50
    sample_seconds: float = 20e-3
    timer: Literal["loop", "profiler"] = "loop"
    compare: bool = False
    paper_table: Literal["training", "inference"] = "training"
    paper_sweep: str = "float32/b256/forward_backward"

    def __post_init__(self) -> None:
        """Refuses sweeps and sizes that cannot be measured.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        if not self.sweeps or not self.sizes:
            raise ValueError("sweeps and sizes must each name at least one")
        for name in self.sweeps:
            Sweep.parse(name)
        for n in self.sizes:
            if n < 2 or n & (n - 1):
                raise ValueError(f"sizes must be powers of two, at least 2; got {n}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def build(self) -> "SpeedExperiment":
        """The experiment: one phase a sweep and size."""
        from experiments.butterfly.speed.experiment import SpeedExperiment

        return SpeedExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one size, the product alone, few samples."""
        first = replace(Sweep.parse(self.sweeps[0]), batch=16, mode="forward")
        return replace(
            self,
            sweeps=(f"{first.dtype}/b{first.batch}/{first.mode}",),
            sizes=(64,),
            rivals=self.rivals[:1],
            repeats=3,
            sample_seconds=2e-3,
            at_least=(),
            at_most=(),
        )

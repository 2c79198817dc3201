"""Rounding of gated linear attention and of its gradients, T = 1 .. 32768, gates down to -200.

What: relative RMS error of `gated_linear_attention` against the recurrence in float64 on the CPU:
outputs, final state, gradients of q, k, v and the initial state, gradients of the log gates; the
largest over all cases is the metric. Gates of ten kinds, from constant 0 to constant -200, strong,
spiky and mixed. And what must be exact: outputs and gradients of a prefix do not change, bit by
bit, with what comes after it, nor do results with a call again, and inside `batch_invariant` with a
batch, and outputs with a longer T, from whole chunks on. Runs on any device; float32 at precision
"highest".

Paper: Yang et al. 2024, arXiv:2312.06635, equation 3 (recurrence), sections 4.2 and 4.3.
Expected: float32 2e-6 and 1e-5 (gradients); bfloat16 4e-3 (o), 3e-3 (state), 5e-3 (gradients).
Hardware: any; 5 minutes on a 2-core CPU (9 on a busy one).
Command: python -m experiments run configs/gla/op_numerics.py
"""

from dataclasses import dataclass, replace
from typing import Self

from experiments.experiment import Goal
from experiments.gla.op_numerics import KINDS, Case, OpNumerics

_LIMITS = {
    "float32": {"o": 2e-6, "state": 2e-6, "gradients": 1e-5, "gate_gradients": 1e-5},
    "bfloat16": {"o": 4e-3, "state": 3e-3, "gradients": 5e-3, "gate_gradients": 5e-3},
}
_SHAPES = ((64, 64), (128, 128), (128, 256), (256, 512))
_TIMES = (1, 63, 64, 1000, 2048)
_LARGEST = 1000 * 128 * 256  # T K V up to which gradients of the recurrence fit the memory


def _cases(shapes: tuple[tuple[int, int], ...], times: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(
        Case(key, value, time, gradients=time * key * value <= _LARGEST)
        for key, value in shapes
        for time in times
    )


@dataclass(frozen=True)
class Config:
    """Which precisions and shapes."""

    family: str = "gla"
    experiment: str = "op_numerics"
    dtypes: tuple[str, ...] = tuple(_LIMITS)
    """Dtypes of q, k and v."""
    shapes: tuple[tuple[int, int], ...] = _SHAPES
    """Pairs of K and V."""
    times: tuple[int, ...] = _TIMES
    """Numbers of tokens T, at every pair."""
    long: int = 32768
    """A large T at the first pair, forward: its error against that at the last of times."""
    gates: tuple[str, ...] = KINDS
    """Kinds of gates, at the first pair and T = 150."""
    prefixes: tuple[tuple[int, int], ...] = ((300, 64), (300, 77), (300, 149), (2048, 1024))
    """Pairs of T and the length of a prefix."""
    implementation: str | None = None
    """Of the op; None is what it chooses."""

    def __post_init__(self) -> None:
        """Refuses names that are not there.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        for field, names in (("dtypes", tuple(_LIMITS)), ("gates", KINDS)):
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(f"{field} must be among {', '.join(names)}; got {name!r}")
        for time, prefix in self.prefixes:
            if not 0 < prefix < time:
                raise ValueError(f"prefixes must be shorter than T, got {prefix} of {time}")

    def build(self) -> OpNumerics:
        """One phase a precision."""
        first = self.shapes[0]
        long = Case(*first, self.long, gradients=False)
        by_gates = tuple(Case(*first, 150, kind) for kind in self.gates)
        cases = (*_cases(self.shapes, self.times), long, *by_gates)
        short = Case(*first, self.times[-1])
        return OpNumerics(
            self.dtypes, cases, self.prefixes, self.implementation, (short.name, long.name)
        )

    def goals(self) -> tuple[Goal, ...]:
        """Errors, their growth with T, and prefixes that stay as they are."""
        goals = []
        for dtype in self.dtypes:
            goals += [
                Goal(f"{dtype}/{name}", bound, "<=") for name, bound in _LIMITS[dtype].items()
            ]
            goals += [
                Goal(f"{dtype}/long_over_short", 1.25, "<="),
                Goal(f"{dtype}/changed", 0, "<="),
                Goal(f"{dtype}/changed_again", 0, "<="),
            ]
        if "bfloat16" in self.dtypes:  # float32 is multiplied by libraries as they choose
            goals += [Goal(f"bfloat16/changed_{name}", 0, "<=") for name in ("batch", "longer")]
        return tuple(goals)

    def smoke(self) -> Self:
        """A small shape."""
        return replace(
            self, shapes=((8, 16),), times=(33,), long=70, gates=("mixed",), prefixes=((40, 17),)
        )


def get_config() -> Config:
    """All precisions at all shapes."""
    return Config()

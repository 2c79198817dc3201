"""Configs of the recovery experiment, and the goals they imply."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.models import ColumnPermutation, RowPermutation
from experiments.experiment import Goal

if TYPE_CHECKING:
    from experiments.butterfly.recovery.experiment import RecoveryExperiment

type Dtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class RecoveryConfig:
    """Recovery of one transform from its matrix, the permutation fixed.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        transform: which matrix: dft, inverse_dft, dct, dst, convolution, hadamard, hartley,
            legendre, randn.
        sizes: transform sizes, powers of two.
        dtypes: precisions; each size is fitted in each.
        blocks: butterflies in a row: 1 is BP, 2 is BPBP.
        tied: one set of 2x2 blocks per factor (the paper), or 2x2 blocks of their own.
        is_complex: complex parameters.
        loss: "matrix" compares the model as it is, "real" its real part alone.
        column_permutation: P of the model, see `models.column_permutation`.
        row_permutation: R of T = R A P, see `models.row_permutation`.
        initializer: "orthogonal" (Haar), "gaussian" (the paper's), "identity", or "fourier"
            (inverse DFT times DFT plus a tenth of the Haar draw).
        learning_rate: of Adam, decayed by a cosine to 0.
        steps: of Adam.
        seeds: fits, all at once, with different random parameters.
        large_seeds: fits at sizes above `large_size`.
        large_size: from which size on fewer seeds are run.
        seed: of the random keys.
        rmse_goal: the line to reach in float32, ||T - A||_F / n.
        relative_goal: the line to reach in float32, ||T - A||_F / ||T||_F.
        relative_goal_float64: the line to reach in float64; None where there is none.
        seed_fraction_goal: share of the seeds that is to reach the line.
        recovery_steps_goal: the seeds are to reach the paper's RMSE of 1e-4 within these steps;
            None where there is no such goal.
        time_goals: figures of the runner's clock ("seconds.total", "phases.NAME.seconds") and the
            seconds that they may be, compilation included.
    """

    family: str = "butterfly"
    experiment: str = "recover_dft"
    transform: str = "dft"
    sizes: tuple[int, ...] = paper.SIZES
    dtypes: tuple[Dtype, ...] = ("float32", "float64")
    blocks: int = 1
    tied: bool = False
    is_complex: bool = True
    loss: Literal["matrix", "real"] = "matrix"
    column_permutation: ColumnPermutation = "bit_reversal"
    row_permutation: RowPermutation = "identity"
    initializer: Literal["orthogonal", "gaussian", "identity", "fourier"] = "orthogonal"
    learning_rate: float = 0.1
    steps: int = 3000
    seeds: int = 16
    large_seeds: int = 2
    large_size: int = 1024
    seed: int = 0
    rmse_goal: float = 1e-7
    relative_goal: float = 1e-6
    relative_goal_float64: float | None = 1e-12
    seed_fraction_goal: float | None = 0.9
    recovery_steps_goal: int | None = None
    time_goals: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuses sizes, counts and names that no fit can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        from experiments.butterfly.targets import TARGETS

        if self.transform not in TARGETS:
            raise ValueError(f"transform must be one of {sorted(TARGETS)}, got {self.transform!r}")
        for n in self.sizes:
            if n < 2 or n & (n - 1):
                raise ValueError(f"sizes must be powers of two, at least 2; got {n}")
        if not self.sizes or not self.dtypes:
            raise ValueError("sizes and dtypes must each name at least one")
        for name in ("blocks", "steps", "seeds", "large_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.initializer == "fourier" and (self.blocks != 2 or not self.is_complex):
            raise ValueError(
                "initializer 'fourier' needs blocks=2 and is_complex=True, "
                f"got blocks={self.blocks} and is_complex={self.is_complex}"
            )

    @property
    def enable_x64(self) -> bool:
        """Whether the run needs double precision."""
        return "float64" in self.dtypes

    def seeds_for(self, n: int) -> int:
        """Number of fits at a size."""
        return self.seeds if n <= self.large_size else self.large_seeds

    def build(self) -> "RecoveryExperiment":
        """The experiment: one phase a size and precision."""
        from experiments.butterfly.recovery.experiment import RecoveryExperiment

        return RecoveryExperiment(self)

    def smoke(self) -> Self:
        """Seconds on a CPU: one small size, few seeds, the same code."""
        return replace(
            self, sizes=(16,), steps=min(self.steps, 600), seeds=4, large_seeds=1, time_goals=()
        )

    def goals(self) -> tuple[Goal, ...]:
        """The lines of every size and precision, and the clock's."""
        lines = tuple(goal for n in self.sizes for goal in self._size_goals(n))
        return lines + tuple(Goal(name, bound, "<=", unit="s") for name, bound in self.time_goals)

    def _size_goals(self, n: int) -> list[Goal]:
        key = f"n{n:04d}"
        goals = []
        if "float32" in self.dtypes:
            published = paper.rmse(self.transform, n)
            goals += [
                Goal(f"{key}/float32/rmse", self.rmse_goal, "<=", published),
                Goal(f"{key}/float32/relative_error", self.relative_goal, "<="),
            ]
            if self.seed_fraction_goal is not None:
                fraction = self.seed_fraction_goal
                goals.append(Goal(f"{key}/float32/seeds_at_line", fraction, ">="))
                if self.recovery_steps_goal is not None:
                    metric = f"{key}/float32/seeds_recovered_in_{self.recovery_steps_goal}_steps"
                    goals.append(Goal(metric, fraction, ">="))
        if "float64" in self.dtypes and self.relative_goal_float64 is not None:
            bound = self.relative_goal_float64
            goals.append(Goal(f"{key}/float64/relative_error", bound, "<="))
        return goals


@dataclass(frozen=True)
class LearnedRecoveryConfig(RecoveryConfig):
    """Recovery of one transform and of its permutation.

    Attributes:
        relax_steps: gradients a seed spends with the soft permutation, all restarts together.
        restarts: independent relaxations of a seed; the best one is rounded.
        relax_learning_rate: of Adam with the soft permutation, decayed to a tenth.
        shared_logits: the same three choices at every level, or three logits a level.
        extra_permutation: one more factor of the permutation over the whole input ("BPP").
    """

    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 1024)
    dtypes: tuple[Dtype, ...] = ("float32",)
    steps: int = 1000
    seeds: int = 32
    large_seeds: int = 8
    large_size: int = 128
    seed_fraction_goal: float | None = 0.3
    rmse_goal: float = 1e-6
    relative_goal: float = 1e-5
    relax_steps: int = 1000
    restarts: int = 4
    relax_learning_rate: float = 0.1
    shared_logits: bool = True
    extra_permutation: bool = False

    def __post_init__(self) -> None:
        """Refuses what no relaxation can have.

        Raises:
            ValueError: names the field, its value and what is wanted.
        """
        super().__post_init__()
        if self.blocks != 1:
            raise ValueError(f"blocks must be 1 for a learned permutation, got {self.blocks}")
        if self.restarts < 1 or self.relax_steps < self.restarts:
            raise ValueError(
                "restarts must be at least 1 and relax_steps at least restarts, got "
                f"restarts={self.restarts} and relax_steps={self.relax_steps}"
            )

    def smoke(self) -> Self:
        """Seconds on a CPU: one small size, few seeds, the same code."""
        return replace(self, sizes=(8,), seeds=8, large_seeds=1)

    def _size_goals(self, n: int) -> list[Goal]:
        # of the few seeds at large sizes one is enough
        if n <= self.large_size:
            return super()._size_goals(n)
        one = replace(self, seed_fraction_goal=1 / self.seeds_for(n))
        return super(LearnedRecoveryConfig, one)._size_goals(n)


@dataclass(frozen=True)
class ControlConfig(RecoveryConfig):
    """A matrix that no butterfly has: not worse than the paper is all there is to ask."""

    def _size_goals(self, n: int) -> list[Goal]:
        published = paper.rmse(self.transform, n)
        if published is None:
            return []
        return [Goal(f"n{n:04d}/float32/rmse", published, "<=", published)]


@dataclass(frozen=True)
class ApproximationConfig(RecoveryConfig):
    """A matrix that a butterfly can only approximate: better than a sparse one at its budget."""

    def _size_goals(self, n: int) -> list[Goal]:
        from experiments.butterfly.recovery.baselines import budget, sparse_rmse
        from experiments.butterfly.targets import target_matrix

        sparse = sparse_rmse(target_matrix(self.transform, n), budget(n, self.blocks))
        return [Goal(f"n{n:04d}/float32/rmse", sparse, "<=", paper.rmse(self.transform, n))]

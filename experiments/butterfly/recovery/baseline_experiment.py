"""The baselines of Figure 3 at equal budget, as an experiment of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.baselines import (
    budget,
    low_rank_rmse,
    sparse_plus_low_rank_rmse,
    sparse_rmse,
)
from experiments.butterfly.targets import target_matrix
from experiments.experiment import Goal, Phase

_KINDS = ("sparse", "low_rank", "sparse_plus_low_rank")


@dataclass(frozen=True)
class BaselineConfig:
    """Sparse, low rank and their sum with as many multiplications as the paper's butterfly.

    Attributes:
        family: folder of configs and results.
        experiment: name of the config and of its result.
        transforms: matrices to approximate.
        sizes: transform sizes, powers of two.
        rounds: alternations between the sparse and the low-rank part, for each rank.
    """

    family: str = "butterfly"
    experiment: str = "recovery_baselines"
    transforms: tuple[str, ...] = paper.TRANSFORMS
    sizes: tuple[int, ...] = paper.SIZES
    rounds: int = 3

    def build(self) -> "BaselineExperiment":
        """The experiment: one phase a transform, one step a size."""
        return BaselineExperiment(self)

    def smoke(self) -> Self:
        """Three small sizes."""
        return replace(self, sizes=self.sizes[:3])

    def goals(self) -> tuple[Goal, ...]:
        """None: the baselines are what others are measured against."""
        return ()


@dataclass(frozen=True)
class BaselinePhase:
    """Baselines of one transform, a size a step."""

    config: BaselineConfig
    name: str

    @property
    def num_steps(self) -> int:
        """Number of sizes."""
        return len(self.config.sizes)

    def init(self) -> dict[str, np.ndarray]:
        """One RMSE a kind and size, zero until its step."""
        return {kind: np.zeros(self.num_steps) for kind in _KINDS}

    def advance(
        self, state: dict[str, np.ndarray], step: int, num: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The next sizes."""
        state = {kind: np.array(values) for kind, values in state.items()}
        # the paper fits a convolution with two blocks, which spend twice as much
        blocks = 2 if self.name == "convolution" else 1
        for index in range(step, step + num):
            n = self.config.sizes[index]
            target, spent = target_matrix(self.name, n), budget(n, blocks)
            state["sparse"][index] = sparse_rmse(target, spent)
            state["low_rank"][index] = low_rank_rmse(target, spent)
            state["sparse_plus_low_rank"][index] = sparse_plus_low_rank_rmse(
                target, spent, self.config.rounds
            )
        return state, {kind: float(values[step + num - 1]) for kind, values in state.items()}

    def finish(self, state: dict[str, np.ndarray]) -> dict[str, Any]:
        """RMSE by kind and size."""
        return {kind: np.asarray(values).tolist() for kind, values in state.items()}


@dataclass(frozen=True)
class BaselineExperiment:
    """A phase a transform."""

    config: BaselineConfig

    def phases(self) -> Sequence[Phase]:
        """In the order of the figure."""
        return [BaselinePhase(self.config, name) for name in self.config.transforms]

    def finish(self, results: dict[str, dict[str, Any]]) -> dict[str, float]:
        """TRANSFORM/nNNNN/KIND to RMSE."""
        return {
            f"{transform}/n{n:04d}/{kind}": values[index]
            for transform, result in results.items()
            for kind, values in result.items()
            for index, n in enumerate(self.config.sizes)
        }

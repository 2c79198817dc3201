"""What fits with a fixed and with a learned permutation have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.baselines import budget
from experiments.butterfly.recovery.config import RecoveryConfig
from experiments.butterfly.recovery.models import dense_matrix, draw_parameters
from experiments.butterfly.targets import target_matrix


def mean_square(difference: jax.Array) -> jax.Array:
    """Mean of |d|^2, by squares of real numbers: its gradient has no square root."""
    if jnp.iscomplexobj(difference):
        return jnp.mean(difference.real**2 + difference.imag**2)
    return jnp.mean(difference**2)


@dataclass(frozen=True)
class Fit[C: RecoveryConfig]:
    """Fits of all seeds at one size and precision.

    The target is scaled to entries of root mean square 1. Random unitary factors give entries of
    root mean square 1/sqrt(n): the parameters start small beside the target and grow, which is
    what makes nearly every seed succeed.
    """

    config: C
    n: int
    dtype: str

    @property
    def name(self) -> str:
        """E.g. "n0064_float32"."""
        return f"n{self.n:04d}_{self.dtype}"

    @property
    def num_seeds(self) -> int:
        """Seeds at this size."""
        return self.config.seeds_for(self.n)

    @cached_property
    def target(self) -> np.ndarray:
        """The matrix to recover, float64 or complex128."""
        return target_matrix(self.config.transform, self.n)

    @property
    def target_scale(self) -> float:
        """Root mean square of the entries of the target."""
        return float(np.sqrt(np.mean(np.abs(self.target) ** 2)))

    @property
    def line(self) -> float:
        """Relative error that a seed has to reach: all goals of its precision at once."""
        config = self.config
        if self.dtype == "float64" and config.relative_goal_float64 is not None:
            return config.relative_goal_float64
        return min(config.relative_goal, config.rmse_goal / self.target_scale)

    @property
    def bounds(self) -> tuple[float, float]:
        """Relative losses whose first crossing is recorded: the paper's RMSE, and the line."""
        return ((paper.RECOVERED_RMSE / self.target_scale) ** 2, self.line**2)

    def array(self, matrix: np.ndarray, is_complex: bool) -> jax.Array:
        """A matrix in the precision of the fit."""
        dtype = np.dtype(self.dtype)
        return jnp.asarray(
            matrix.astype(np.result_type(dtype, np.complex64) if is_complex else dtype)
        )

    def draw(self, keys: jax.Array, initializer: str) -> jax.Array:
        """Random parameters, one set a key."""
        config = self.config

        def one(key: jax.Array) -> jax.Array:
            return draw_parameters(
                key, self.n, config.blocks, config.tied, config.is_complex, self.dtype, initializer
            )

        return jax.vmap(one)(keys)

    def results(
        self,
        parameters: jax.Array,
        reached: np.ndarray,
        target_of: Callable[[int], np.ndarray],
        between: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Errors of every seed, in float64 against the target in double precision.

        RMSE = ||T - A||_F / n is the paper's; it is not free of scale (the zero matrix has 0.031
        at n = 1024 for a unitary T), so ||T - A||_F / ||T||_F stands beside it.

        Args:
            parameters: (seeds, ...) real parameters.
            reached: (2, seeds) steps at which the bounds were crossed, -1 for never.
            target_of: seed's number to the matrix that its butterflies have to be.
            between: permutation between two blocks.
        """
        # seed by seed: the matrices of all seeds at once may not fit beside the state
        dense = jax.jit(lambda values: dense_matrix(values, self.config.is_complex, between))
        rmse, relative = [], []
        for seed, values in enumerate(parameters):
            target = target_of(seed)
            matrix = np.asarray(dense(values)) * self.target_scale
            if np.isrealobj(target):
                matrix = matrix.real
            error = float(np.linalg.norm(matrix - target))
            rmse.append(error / self.n)
            relative.append(error / float(np.linalg.norm(target)))
        return {
            "n": self.n,
            "dtype": self.dtype,
            "rmse": rmse,
            "relative_error": relative,
            "line": self.line,
            "steps_to_recovered": reached[0].tolist(),
            "steps_to_line": reached[1].tolist(),
            "parameters": int(np.prod(parameters.shape[1:])),
            "multiplications": budget(self.n, self.config.blocks),
        }

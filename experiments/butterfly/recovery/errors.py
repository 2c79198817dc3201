"""Errors of a recovered matrix, and the results that every fit of the experiment reports."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.recovery import paper
from experiments.butterfly.recovery.models import dense_matrix, multiplications

if TYPE_CHECKING:
    from experiments.butterfly.recovery.config import RecoveryConfig


def mean_square(difference: jax.Array) -> jax.Array:
    """Mean of |d|^2, by squares of real numbers: its gradient has no square root."""
    if jnp.iscomplexobj(difference):
        return jnp.mean(difference.real**2 + difference.imag**2)
    return jnp.mean(difference**2)


def line(config: "RecoveryConfig", dtype: str, scale: float) -> float:
    """Relative error that a seed has to reach: both goals of its precision at once."""
    if dtype == "float64" and config.relative_goal_float64 is not None:
        return config.relative_goal_float64
    return min(config.relative_goal, config.rmse_goal / scale)


def loss_bounds(config: "RecoveryConfig", dtype: str, scale: float) -> tuple[float, float]:
    """Relative losses whose first crossing is recorded: the paper's RMSE, and the goal's line.

    Args:
        config: holds the goals.
        dtype: precision of the fit.
        scale: root mean square of the target's entries.
    """
    line = min(config.relative_goal, config.rmse_goal / scale)
    return (paper.RECOVERED_RMSE / scale) ** 2, line**2


def fit_results(
    parameters: jax.Array,
    reached: np.ndarray,
    target_of: Callable[[int], np.ndarray],
    *,
    config: "RecoveryConfig",
    n: int,
    dtype: str,
    scale: float,
    between: np.ndarray | None = None,
) -> dict[str, Any]:
    """Errors of every seed in float64, against the target in double precision.

    RMSE = ||T - A||_F / n is the paper's; it is not free of scale (the zero matrix has 0.031 at
    n = 1024 for a unitary T), so the relative error ||T - A||_F / ||T||_F stands beside it.

    Args:
        parameters: (seeds, ...) real parameters.
        reached: (2, seeds) steps at which the bounds were crossed, -1 for never.
        target_of: seed's number to the float64 or complex128 matrix its butterflies have to be.
        config: the experiment.
        n: size.
        dtype: precision of the fit.
        scale: what the model's matrix is to be multiplied with.
        between: permutation between two blocks.
    """
    # seed by seed: the matrices of all seeds at once may not fit beside the state
    dense = jax.jit(lambda values: dense_matrix(values, config.is_complex, between))
    rmse, relative = [], []
    for seed, values in enumerate(parameters):
        target = target_of(seed)
        matrix = np.asarray(dense(values)) * scale
        if np.isrealobj(target):
            matrix = matrix.real
        error = float(np.linalg.norm(matrix - target))
        rmse.append(error / n)
        relative.append(error / float(np.linalg.norm(target)))
    return {
        "n": n,
        "dtype": dtype,
        "rmse": rmse,
        "relative_error": relative,
        "line": line(config, dtype, scale),
        "steps_to_recovered": reached[0].tolist(),
        "steps_to_line": reached[1].tolist(),
        "parameters": int(np.prod(parameters.shape[1:])),
        "multiplications": multiplications(n, config.blocks),
    }

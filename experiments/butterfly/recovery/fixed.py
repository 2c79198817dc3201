"""One fit with a fixed permutation: all seeds of one size and precision."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.recovery.adam import cosine_adam, descend
from experiments.butterfly.recovery.config import RecoveryConfig
from experiments.butterfly.recovery.fit import Fit, mean_square
from experiments.butterfly.recovery.models import (
    column_permutation,
    dense_matrix,
    row_permutation,
    to_pairs,
)
from structlayers.butterfly import dft, inverse_dft, tie_butterfly


@dataclass(frozen=True)
class FixedFit(Fit[RecoveryConfig]):
    """Fits T = R A P to the target T for known permutations R of the rows and P of the columns.

    The loss is the mean square error over the whole matrix, as in the paper (the model applied to
    the identity), divided by mean |T|^2. The matrix comes from `butterfly_to_dense`, O(n^2), not
    from n products with unit vectors.
    """

    @property
    def num_steps(self) -> int:
        """Adam steps."""
        return self.config.steps

    @property
    def between(self) -> np.ndarray | None:
        """Permutation between two blocks of (BP)^k."""
        if self.config.blocks == 1:
            return None
        return column_permutation(self.config.column_permutation, self.n)

    @cached_property
    def permuted_target(self) -> np.ndarray:
        """R^T T P^T, what the butterflies alone have to be."""
        columns = column_permutation(self.config.column_permutation, self.n)
        rows = row_permutation(self.config.row_permutation, self.n)
        return self.target[rows][:, columns]

    @cached_property
    def _data(self) -> dict[str, jax.Array]:
        is_complex = self.config.is_complex and self.config.loss == "matrix"
        return {"shared": self.array(self.permuted_target / self.target_scale, is_complex)}

    @cached_property
    def _loss(self) -> Any:
        config, between = self.config, self.between

        def loss(parameters: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
            matrix = dense_matrix(parameters, config.is_complex, between)
            if config.loss == "real" and jnp.iscomplexobj(matrix):
                matrix = matrix.real
            return mean_square(matrix - data["shared"])

        return loss

    @cached_property
    def _optimizer(self) -> Any:
        return cosine_adam(self.config.learning_rate, self.num_steps)

    def init(self) -> dict[str, Any]:
        """Parameters of every seed and the optimizer's first state."""
        keys = jax.random.split(jax.random.key(self.config.seed), self.num_seeds)
        if self.config.initializer == "fourier":
            parameters = self.fourier_parameters() + 0.1 * self.draw(keys, "orthogonal")
        else:
            parameters = self.draw(keys, self.config.initializer)
        return {
            "parameters": parameters,
            "adam": self._optimizer.init(parameters),
            "reached": jnp.full((2, self.num_seeds), -1, jnp.int32),
        }

    def fourier_parameters(self) -> jax.Array:
        """Inverse DFT times DFT, the identity, as the parameters of one seed: (1, ...)."""
        dtype = np.result_type(np.dtype(self.dtype), np.complex64)
        pair = [make(self.n, norm="ortho", dtype=dtype).twiddle for make in (dft, inverse_dft)]
        twiddle = jnp.concatenate([jnp.asarray(block) for block in pair], axis=1)
        if self.config.tied:
            twiddle = tie_butterfly(twiddle)
        return to_pairs(twiddle)[None]

    def advance(
        self, state: dict[str, Any], step: int, num: int
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """`num` steps of Adam on all seeds; logs the RMSE of the best and the median seed."""
        state, losses = descend(
            state,
            self._data,
            jnp.asarray(step, jnp.int32),
            jnp.asarray(num, jnp.int32),
            loss=self._loss,
            optimizer=self._optimizer,
            bounds=self.bounds,
        )
        rmse = np.sqrt(np.asarray(losses, np.float64)) * self.target_scale
        return state, {
            "rmse_best": float(rmse.min()),
            "rmse_median": float(np.median(rmse)),
            "recovered": float(np.mean(np.asarray(state["reached"])[0] >= 0)),
        }

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Errors of every seed against the target, and when they crossed the bounds."""
        return self.results(
            state["parameters"],
            np.asarray(state["reached"]),
            lambda seed: self.permuted_target,
            self.between,
        )

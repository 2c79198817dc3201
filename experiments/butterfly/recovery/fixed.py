"""One fit with a fixed permutation: all seeds of one size and precision."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.recovery.adam import cosine_adam, descend
from experiments.butterfly.recovery.errors import fit_results, loss_bounds, mean_square
from experiments.butterfly.recovery.models import (
    column_permutation,
    dense_matrix,
    draw_parameters,
    row_permutation,
    to_pairs,
)
from experiments.butterfly.targets import target_matrix
from structlayers.butterfly import tie_butterfly
from structlayers.butterfly.transforms import dft, inverse_dft

if TYPE_CHECKING:
    from experiments.butterfly.recovery.config import RecoveryConfig


@dataclass(frozen=True)
class FixedFit:
    """Fits T = R A P to the target T for known permutations R of the rows and P of the columns.

    The loss is the mean square error over the whole matrix, as in the paper (the model applied to
    the identity), divided by mean |T|^2. The matrix comes from `butterfly_to_dense`, O(n^2), not
    from n products with unit vectors.
    """

    config: "RecoveryConfig"
    n: int
    dtype: str

    @property
    def name(self) -> str:
        """E.g. "n0064_float32"."""
        return f"n{self.n:04d}_{self.dtype}"

    @property
    def num_steps(self) -> int:
        """Adam steps."""
        return self.config.steps

    @property
    def num_seeds(self) -> int:
        """Seeds at this size."""
        return self.config.seeds_for(self.n)

    @cached_property
    def target(self) -> np.ndarray:
        """The matrix to recover, float64 or complex128."""
        return target_matrix(self.config.transform, self.n)

    @cached_property
    def permuted_target(self) -> np.ndarray:
        """R^T T P^T, what the butterflies alone have to be; root mean square 1."""
        columns = column_permutation(self.config.column_permutation, self.n)
        rows = row_permutation(self.config.row_permutation, self.n)
        return self.target[rows][:, columns] / self.target_scale

    @property
    def target_scale(self) -> float:
        """Root mean square of the entries of the target."""
        return float(np.sqrt(np.mean(np.abs(self.target) ** 2)))

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

    @property
    def between(self) -> np.ndarray | None:
        """Permutation between two blocks of (BP)^k."""
        if self.config.blocks == 1:
            return None
        return column_permutation(self.config.column_permutation, self.n)

    @cached_property
    def _data(self) -> dict[str, jax.Array]:
        is_complex = np.iscomplexobj(self.target) or self.config.loss == "matrix"
        dtype = jnp.dtype(self.dtype)
        if is_complex and self.config.is_complex:
            dtype = np.result_type(dtype, np.complex64)
        return {"shared": jnp.asarray(self.permuted_target.astype(dtype))}

    def init(self) -> dict[str, Any]:
        """Parameters of every seed and the optimizer's first state."""
        config = self.config
        keys = jax.random.split(jax.random.key(config.seed), self.num_seeds)

        def draw(key: jax.Array) -> jax.Array:
            return draw_parameters(
                key,
                self.n,
                config.blocks,
                config.tied,
                config.is_complex,
                self.dtype,
                "orthogonal" if config.initializer == "fourier" else config.initializer,
            )

        parameters = jax.vmap(draw)(keys)
        if config.initializer == "fourier":
            parameters = self._fourier(parameters)
        return {
            "parameters": parameters,
            "adam": self._optimizer.init(parameters),
            "reached": jnp.full((2, self.num_seeds), -1, jnp.int32),
        }

    def _fourier(self, noise: jax.Array) -> jax.Array:
        """Inverse DFT times DFT, the identity, plus a tenth of the random parameters."""
        dtype = np.result_type(np.dtype(self.dtype), np.complex64)
        pair = [make(self.n, dtype=dtype).twiddle for make in (dft, inverse_dft)]
        twiddle = jnp.concatenate([jnp.asarray(block) for block in pair], axis=1)
        if self.config.tied:
            twiddle = tie_butterfly(twiddle)
        return to_pairs(twiddle)[None] + 0.1 * noise

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
            bounds=loss_bounds(self.config, self.dtype, self.target_scale),
        )
        rmse = np.sqrt(np.asarray(losses, np.float64)) * self.target_scale
        recovered = float(np.mean(np.asarray(state["reached"])[0] >= 0))
        return state, {
            "rmse_best": float(rmse.min()),
            "rmse_median": float(np.median(rmse)),
            "recovered": recovered,
        }

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Errors of every seed against the float64 target, and when they crossed the bounds."""
        return fit_results(
            state["parameters"],
            np.asarray(state["reached"]),
            lambda seed: self.permuted_target * self.target_scale,
            config=self.config,
            n=self.n,
            dtype=self.dtype,
            scale=self.target_scale,
            between=self.between,
        )

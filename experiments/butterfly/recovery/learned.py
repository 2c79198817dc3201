"""One fit with a learned permutation: relaxation, rounding, refit."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.butterfly.recovery.adam import cosine_adam, descend
from experiments.butterfly.recovery.config import LearnedRecoveryConfig
from experiments.butterfly.recovery.fit import Fit, mean_square
from experiments.butterfly.recovery.models import dense_matrix
from structlayers.butterfly import (
    permutation_logits_shape,
    round_permutation,
    soft_permutation,
    soft_permutation_factor,
)


@dataclass(frozen=True)
class LearnedFit(Fit[LearnedRecoveryConfig]):
    """Fits T = B P with P unknown.

    Relaxation: `restarts` independent fits a seed of B and of the soft permutation, each with
    `relax_steps / restarts` steps of Adam, so that a seed costs `relax_steps` gradients. The
    restart with the smallest loss gives the seed its permutation, rounded. Refit: B anew from
    random parameters with that permutation, `steps` steps.

    A step of this phase is one step of Adam on everything there is: all restarts of all seeds
    during the relaxation, all seeds during the refit.
    """

    @property
    def relax_steps(self) -> int:
        """Steps of one restart."""
        return self.config.relax_steps // self.config.restarts

    @property
    def num_steps(self) -> int:
        """Steps of one restart and of the refit."""
        return self.relax_steps + self.config.steps

    @cached_property
    def _target(self) -> jax.Array:
        return self.array(self.target / self.target_scale, np.iscomplexobj(self.target))

    def _soft_matrix(self, logits: dict[str, jax.Array]) -> jax.Array:
        """(n, n) doubly stochastic matrix P of the relaxed permutation."""
        rows = jnp.eye(self.n, dtype=jnp.dtype(self.dtype))
        if "extra" in logits:
            rows = soft_permutation_factor(rows, logits["extra"])
        return soft_permutation(rows, logits["levels"]).T

    def _matrix(self, parameters: jax.Array) -> jax.Array:
        matrix = dense_matrix(parameters, self.config.is_complex, None)
        real = jnp.iscomplexobj(matrix) and not jnp.iscomplexobj(self._target)
        return matrix.real if real else matrix

    @cached_property
    def _relax_loss(self) -> Any:
        def loss(parameters: dict[str, Any], data: dict[str, jax.Array]) -> jax.Array:
            matrix = self._matrix(parameters["twiddle"])
            soft = self._soft_matrix(parameters["logits"]).astype(matrix.dtype)
            return mean_square(jnp.matmul(matrix, soft, precision="highest") - data["shared"])

        return loss

    @cached_property
    def _refit_loss(self) -> Any:
        def loss(parameters: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
            # T = B P has B[:, i] = T[:, p[i]]
            return mean_square(self._matrix(parameters) - data["target"])

        return loss

    @cached_property
    def _relax_optimizer(self) -> Any:
        return cosine_adam(self.config.relax_learning_rate, self.relax_steps, floor=0.1)

    @cached_property
    def _refit_optimizer(self) -> Any:
        return cosine_adam(self.config.learning_rate, self.config.steps)

    def init(self) -> dict[str, Any]:
        """States of the relaxation (seeds x restarts fits) and of the refit (seeds fits)."""
        config, seeds = self.config, self.num_seeds
        fits = seeds * config.restarts
        relax, refit = jax.random.split(jax.random.key(config.seed))
        keys = jax.random.split(relax, (3, fits))
        levels = permutation_logits_shape(self.n, shared=config.shared_logits)
        dtype = jnp.dtype(self.dtype)
        logits = {
            "levels": jax.vmap(lambda key: jax.random.normal(key, levels, dtype))(keys[1]),
        }
        if config.extra_permutation:
            logits["extra"] = jax.vmap(lambda key: jax.random.normal(key, (3,), dtype))(keys[2])
        soft = {"twiddle": self.draw(keys[0], config.initializer), "logits": logits}
        hard = self.draw(jax.random.split(refit, seeds), config.initializer)
        return {
            "relax": {
                "parameters": soft,
                "adam": self._relax_optimizer.init(soft),
                "reached": jnp.full((1, fits), -1, jnp.int32),
            },
            "refit": {
                "parameters": hard,
                "adam": self._refit_optimizer.init(hard),
                "reached": jnp.full((2, seeds), -1, jnp.int32),
            },
            "permutation": jnp.tile(jnp.arange(self.n, dtype=jnp.int32), (seeds, 1)),
            "relaxed_loss": jnp.full((seeds,), jnp.inf, dtype),
        }

    # the relaxed loss of a seed is infinite until its relaxation is over
    allow_nonfinite = frozenset({"relaxed_loss"})

    def advance(
        self, state: dict[str, Any], step: int, num: int
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """`num` steps, across the rounding if it lies among them."""
        state = dict(state)
        relax_num = min(num, max(self.relax_steps - step, 0))
        scalars: dict[str, float] = {}
        if relax_num:
            state["relax"], losses = self._relax(state["relax"], step, relax_num)
            relative = np.sqrt(np.asarray(losses, np.float64))
            scalars["relaxed_best"] = float(relative.min())
            if step + relax_num == self.relax_steps:
                state["permutation"], state["relaxed_loss"] = self._round(
                    state["relax"]["parameters"]["logits"], losses
                )
        if num > relax_num:
            refit_step = step + relax_num - self.relax_steps
            state["refit"], losses = self._refit(
                state["refit"], state["permutation"], refit_step, num - relax_num
            )
            rmse = np.sqrt(np.asarray(losses, np.float64)) * self.target_scale
            scalars["rmse_best"] = float(rmse.min())
            scalars["recovered"] = float(np.mean(np.asarray(state["refit"]["reached"])[0] >= 0))
        return state, scalars

    def _relax(self, state: dict[str, Any], step: int, num: int) -> tuple[dict[str, Any], Any]:
        return descend(
            state,
            {"shared": self._target},
            jnp.asarray(step, jnp.int32),
            jnp.asarray(num, jnp.int32),
            loss=self._relax_loss,
            optimizer=self._relax_optimizer,
            bounds=(0.0,),
        )

    def _refit(
        self, state: dict[str, Any], permutation: jax.Array, step: int, num: int
    ) -> tuple[dict[str, Any], Any]:
        targets = jax.vmap(lambda p: self._target[:, p])(permutation)
        return descend(
            state,
            {"target": targets},
            jnp.asarray(step, jnp.int32),
            jnp.asarray(num, jnp.int32),
            loss=self._refit_loss,
            optimizer=self._refit_optimizer,
            bounds=self.bounds,
        )

    def _round(
        self, logits: dict[str, jax.Array], losses: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Permutation of each seed's best restart, and that restart's loss."""
        by_seed = losses.reshape(self.num_seeds, self.config.restarts)
        best = jnp.argmin(by_seed, axis=1)

        def of_best(values: jax.Array) -> jax.Array:
            by_seed = values.reshape(self.num_seeds, self.config.restarts, *values.shape[1:])
            return jax.vmap(lambda row, index: row[index])(by_seed, best)

        chosen = jax.tree.map(of_best, logits)
        return jax.vmap(self.round_seed)(chosen), by_seed.min(axis=1)

    def round_seed(self, logits: dict[str, jax.Array]) -> jax.Array:
        """Index array (n,) of one seed's logits, every choice taken whose logit is positive."""
        permutation = round_permutation(logits["levels"], self.n)
        if "extra" not in logits:
            return permutation
        # a saturated logit makes the soft factor exactly hard; indices below 2**24 are exact
        saturated = jnp.where(logits["extra"] > 0, jnp.float32(1e6), jnp.float32(-1e6))
        first = soft_permutation_factor(jnp.arange(self.n, dtype=jnp.float32), saturated)
        return first.astype(jnp.int32)[permutation]

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Errors of every seed after the refit, and how many permutations were right."""
        permutations = np.asarray(state["permutation"])
        results = self.results(
            state["refit"]["parameters"],
            np.asarray(state["refit"]["reached"]),
            lambda seed: self.target[:, permutations[seed]],
        )
        recovered = np.asarray(results["relative_error"]) <= self.config.relative_goal
        results["exact_permutations"] = len({p.tobytes() for p in permutations[recovered]})
        results["relaxed_relative_error"] = np.sqrt(np.asarray(state["relaxed_loss"])).tolist()
        return results

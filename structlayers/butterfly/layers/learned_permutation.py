"""A permutation learned by gradient descent through its relaxation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_power_of_two
from structlayers._core.layers import PromoteDtype, require_features, require_real_dtype
from structlayers.butterfly.permutations import (
    apply_permutation,
    permutation_logits_shape,
    round_permutation,
    soft_permutation,
)

default_logits_init = nnx.initializers.normal(1.0)


class LearnedPermutation(nnx.Module):
    """Permutes the last axis, softly while it is learned and exactly once it is rounded.

    At sizes `N, N/2, ..., 4` three choices are interpolated with weights `sigmoid(logit)`:
    separating even from odd positions, reversing the first half, reversing the second half. The
    relaxed matrix is doubly stochastic and costs `O(N)` a level. Rounding takes every choice whose
    logit is positive; after rounding, refit what follows the permutation.

    Args:
        features: size N of the last axis, a power of two.
        shared: one set of three logits for all `log2 N - 1` levels (as the recursive permutations
            of the fast transforms need), or one set a level.
        dtype: the dtype of the computation; None is that of the inputs.
        param_dtype: real dtype of the logits.
        logits_init: initializer of the logits, `(1, 3)` or `(log2 N - 1, 3)`.
        promote_dtype: casts the tuple of inputs to `dtype`.
        rngs: random keys; `params` is used.
        logits_metadata: metadata of the parameter, such as `out_sharding`.

    Raises:
        ValueError: `features` is no power of two.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = LearnedPermutation(8, rngs=nnx.Rngs(0))
        >>> layer.logits[...] = jnp.array([[9.0, -9.0, -9.0]])  # even before odd, no reversal
        >>> layer.round().tolist()
        [0, 4, 2, 6, 1, 5, 3, 7]
        >>> layer(jnp.arange(8.0), hard=True).tolist()
        [0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0]

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, section 3.2.
    """

    def __init__(
        self,
        features: int,
        *,
        shared: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        logits_init: Initializer = default_logits_init,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        logits_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        features = require_power_of_two("features", features)
        require_real_dtype("param_dtype", param_dtype)
        shape = permutation_logits_shape(features, shared=shared)
        self.logits = nnx.Param(logits_init(rngs.params(), shape, param_dtype), **logits_metadata)
        self.features = features
        self.shared = shared
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

    def __call__(self, inputs: ArrayLike, *, hard: bool = False) -> jax.Array:
        """Permutes the last axis.

        Args:
            inputs: `(*B, features)`, real or complex.
            hard: apply the rounded permutation, an exact copy of entries without gradient for the
                logits, instead of the relaxed one.

        Returns:
            `(*B, features)`.

        Raises:
            ValueError: the last axis of `inputs` is not `features` long.
        """
        require_features("inputs", inputs, self.features)
        with jax.named_scope("structlayers.LearnedPermutation"):
            (inputs,) = self.promote_dtype((inputs,), dtype=self.dtype)
            if hard:
                return apply_permutation(inputs, self.round())
            return soft_permutation(inputs, self.logits[...])

    def round(self) -> jax.Array:
        """The nearest hard permutation: int32 indices `p` of shape `(features,)`, `x[..., p]`."""
        return round_permutation(self.logits[...], self.features)

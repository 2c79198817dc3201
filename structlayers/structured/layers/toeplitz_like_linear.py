"""A linear layer whose matrix has low displacement rank: Toeplitz-like."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import PromoteDtype
from structlayers._core.precision import PrecisionLike
from structlayers.structured.layers._base import (
    StructuredLinear,
    from_linear_settings,
    normal_init,
)
from structlayers.structured.ops import toeplitz_like_multiply, toeplitz_like_to_dense
from structlayers.structured.project import project_to_toeplitz_like


class ToeplitzLikeLinear(StructuredLinear):
    """`y = (sum_i K(Z_1, g_i) K(Z_-1, h_i)^T x)[:out] + b`: `2 r N` parameters.

    The arguments of `flax.nnx.Linear` and the displacement rank, at any sizes: `N = in_features`,
    and where there are more outputs than inputs, `S = ceil(out_features / N)` matrices stand one
    below the other; their outputs are cut. Rank 2 holds every square Toeplitz matrix.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        rank: displacement rank r; the published comparison takes 4.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of g and h, called for each with `(S, r, N)`; None is normal of
            variance `1 / (N sqrt(r))`, which keeps `E|y|^2 / out = E|x|^2 / in` (the released code
            takes `1 / (N r)`, the same at r = 1).
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `toeplitz_like_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the generators, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size or rank below 1.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = ToeplitzLikeLinear(10, 6, rank=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.g.shape
        ((5, 6), (1, 2, 10))

    References:
        Thomas, Gu, Dao, Rudra, Ré, "Learning compressed transforms with low displacement rank",
        2018, arXiv:1810.02309. Released code: github.com/HazyResearch/structured-nets.
    """

    WEIGHTS = ("g", "h")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int = 4,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = nnx.initializers.zeros,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            bias_init=bias_init,
            promote_dtype=promote_dtype,
            implementation=implementation,
            rngs=rngs,
            bias_metadata=bias_metadata,
        )
        self.rank = require_positive("rank", rank)
        shape = (-(-out_features // in_features), rank, in_features)
        init = normal_init(1 / (in_features * rank**0.5)) if kernel_init is None else kernel_init
        self.g = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)
        self.h = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        return toeplitz_like_multiply(
            x,
            *weights,
            out_features=self.out_features,
            precision=self.precision,
            implementation=self.implementation,
        )

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        return toeplitz_like_to_dense(*weights, out_features=self.out_features)

    @classmethod
    def from_linear(
        cls, linear: nnx.Linear, *, rank: int = 4, **options: Any
    ) -> "ToeplitzLikeLinear":
        """A Toeplitz-like layer from the nearest displacement of rank r to that of a dense one.

        Exact where the square kernel has displacement rank r; an approximation elsewhere, that is
        not the nearest in the kernel itself: compare `dense_kernel()` with the kernel.

        Args:
            linear: its kernel is projected; its bias, dtypes and precision are taken over.
            rank: displacement rank, at most `in_features`.
            **options: further arguments of the class, such as `dtype`.

        Returns:
            The layer.

        Raises:
            TypeError: the kernel is complex.
            ValueError: `rank` is out of range.

        Example:
            >>> linear = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
            >>> ToeplitzLikeLinear.from_linear(linear, rank=2).h.shape
            (1, 2, 6)
        """
        settings = from_linear_settings(linear) | {"rank": rank}
        layer = cls(linear.in_features, linear.out_features, **settings | options)
        layer._replace_weights(*project_to_toeplitz_like(linear.kernel[...].T, rank))
        return layer

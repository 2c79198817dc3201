"""A linear layer of low displacement rank with learned tridiagonal operators (LDR-TD)."""

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
from structlayers.structured.layers._base import StructuredLinear, normal_init
from structlayers.structured.ops import ldr_multiply, ldr_to_dense


class LDRLinear(StructuredLinear):
    """`y = (sum_i K(A, g_i) K(B, h_i)^T x)[:out] + b`, A and B learned: `2 r N + 6 N` parameters.

    A and B are tridiagonal with two corners, stored as three cyclic diagonals; they start at the
    shifts `Z_1` and `Z_-1`, where the layer is Toeplitz-like. The arguments of
    `flax.nnx.Linear` and the displacement rank, at any sizes: `N = in_features`, and where there
    are more outputs than inputs, `S = ceil(out_features / N)` matrices stand one below the other;
    their outputs are cut.

    There is no `from_linear`: no closed form finds operators for a given matrix. The Toeplitz-like
    one starts from a dense layer, and its g and h fit here.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        rank: displacement rank r; the published comparison takes 1.
        corners: upper right corners of A and B at the start. The default shifts are orthogonal, so
            that Krylov columns keep their length; the released code starts at (0, 0), nilpotent
            shifts.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of g and h, called for each with `(S, r, N)`; None is normal of
            variance `1 / (N sqrt(r))`, which keeps `E|y|^2 / out = E|x|^2 / in` for the default
            corners (the released code takes `1 / (N r)`, the same at r = 1).
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `ldr_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the parameters but the bias, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size or rank below 1.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = LDRLinear(10, 6, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.g.shape, layer.a.shape
        ((5, 6), (1, 1, 10), (1, 3, 10))

    References:
        Thomas, Gu, Dao, Rudra, Ré, "Learning compressed transforms with low displacement rank",
        2018, arXiv:1810.02309. Released code:
        github.com/HazyResearch/structured-nets (class LDRTridiagonalC).
    """

    WEIGHTS = ("g", "h", "a", "b")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int = 1,
        corners: tuple[float, float] = (1.0, -1.0),
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
        self.corners = corners
        stacks = -(-out_features // in_features)
        shape = (stacks, rank, in_features)
        init = normal_init(1 / (in_features * rank**0.5)) if kernel_init is None else kernel_init
        self.g = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)
        self.h = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)

        def shift(corner: float) -> jax.Array:
            below = jnp.zeros((stacks, 3, in_features), param_dtype).at[:, 0].set(1)
            return below.at[:, 0, 0].set(corner)

        self.a, self.b = (nnx.Param(shift(corner), **kernel_metadata) for corner in corners)

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        return ldr_multiply(
            x,
            *weights,
            out_features=self.out_features,
            precision=self.precision,
            implementation=self.implementation,
        )

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        return ldr_to_dense(*weights, out_features=self.out_features)

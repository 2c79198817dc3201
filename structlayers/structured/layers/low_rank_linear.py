"""A linear layer of low rank: two thin dense factors."""

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
from structlayers.structured.layers._base import StructuredLinear, from_linear_settings
from structlayers.structured.ops import low_rank_multiply, low_rank_to_dense
from structlayers.structured.project import project_to_low_rank

default_kernel_init = nnx.initializers.lecun_normal()


class LowRankLinear(StructuredLinear):
    """`y = u v^T x + b` with rank r: `r (in + out)` parameters, two `nnx.Linear` in a row.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        rank: r; the published comparison takes 4.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the two factors, called with their `(inputs, outputs)`, which
            are `(in, r)` and `(r, out)`, as for the kernels of two `nnx.Linear`; the default, of
            variance `1 / inputs`, keeps `E|y|^2 / out = E|x|^2 / in` (the released code draws both
            factors with variance `1 / (N r)`, a gain of `1 / sqrt(N r)`).
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `low_rank_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the factors, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size or rank below 1.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = LowRankLinear(10, 6, rank=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.u.shape, layer.v.shape
        ((5, 6), (6, 2), (10, 2))

    References:
        Denil, Shakibi, Dinh, Ranzato, de Freitas, "Predicting parameters in deep learning", 2013,
        arXiv:1306.0543.
    """

    WEIGHTS = ("u", "v")

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
        kernel_init: Initializer = default_kernel_init,
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
        v = kernel_init(rngs.params(), (in_features, rank), param_dtype)
        u = kernel_init(rngs.params(), (rank, out_features), param_dtype)
        if isinstance(u, nnx.VariableMetadata):
            raise TypeError(
                "kernel_init must return an array, got one with metadata: u is stored transposed, "
                "name its axes by kernel_metadata instead"
            )
        self.u = nnx.Param(u.T, **kernel_metadata)
        self.v = nnx.Param(v, **kernel_metadata)

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        return low_rank_multiply(
            x, *weights, precision=self.precision, implementation=self.implementation
        )

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        return low_rank_to_dense(*weights)

    @classmethod
    def from_linear(cls, linear: nnx.Linear, *, rank: int = 4, **options: Any) -> "LowRankLinear":
        """The layer of rank r nearest to a dense one in the Frobenius norm of the kernel.

        Args:
            linear: its kernel is projected; its bias, dtypes and precision are taken over.
            rank: r, at most the smaller of both sizes.
            **options: further arguments of the class, such as `dtype`.

        Returns:
            The layer.

        Raises:
            TypeError: the kernel is complex.
            ValueError: `rank` is out of range.

        Example:
            >>> linear = nnx.Linear(6, 8, rngs=nnx.Rngs(0))
            >>> LowRankLinear.from_linear(linear, rank=2).u.shape
            (8, 2)
        """
        settings = from_linear_settings(linear) | {"rank": rank}
        layer = cls(linear.in_features, linear.out_features, **settings | options)
        layer._replace_weights(*project_to_low_rank(linear.kernel[...].T, rank))
        return layer

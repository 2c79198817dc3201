"""A linear layer whose matrix is circulant."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.layers import PromoteDtype
from structlayers._core.precision import PrecisionLike
from structlayers.structured.layers._base import (
    StructuredLinear,
    from_linear_settings,
    normal_init,
)
from structlayers.structured.ops import circulant_multiply, circulant_to_dense
from structlayers.structured.project import project_to_circulant


class CirculantLinear(StructuredLinear):
    """`y = (C x)[:out] + b`: circular convolution with a learned vector, N parameters.

    The arguments of `flax.nnx.Linear`, at any sizes: `N = in_features`, and where there are more
    outputs than inputs, `S = ceil(out_features / N)` circulant matrices stand one below the other;
    their outputs are cut.

    Args:
        in_features: size of the last axis of the inputs.
        out_features: size of the last axis of the outputs.
        use_bias: whether to add a bias.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the first columns, called with `(S, N)`; None is normal of
            variance 1/N, which keeps `E|y|^2 / out = E|x|^2 / in`.
        bias_init: initializer of the bias.
        promote_dtype: casts the tuple of inputs and parameters to `dtype`.
        implementation: of `circulant_multiply`; None chooses.
        rngs: random keys; `params` is used.
        kernel_metadata: metadata of the first columns, such as `out_sharding`.
        bias_metadata: metadata of the bias.

    Raises:
        ValueError: a size below 1.
        TypeError: `param_dtype` is not real floating point.

    Example:
        >>> layer = CirculantLinear(10, 25, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 10))).shape, layer.column.shape
        ((5, 25), (3, 10))

    References:
        Cheng, Yu, Feris, Kumar, Choudhary, Chang, "An exploration of parameter redundancy in deep
        networks with circulant projections", 2015, arXiv:1502.03436.
    """

    WEIGHTS = ("column",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
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
        shape = (-(-out_features // in_features), in_features)
        init = normal_init(1 / in_features) if kernel_init is None else kernel_init
        self.column = nnx.Param(init(rngs.params(), shape, param_dtype), **kernel_metadata)

    def _multiply(self, x: jax.Array, *weights: ArrayLike) -> jax.Array:
        return circulant_multiply(
            x,
            *weights,
            out_features=self.out_features,
            precision=self.precision,
            implementation=self.implementation,
        )

    def _to_dense(self, *weights: ArrayLike) -> jax.Array:
        return circulant_to_dense(*weights, out_features=self.out_features)

    @classmethod
    def from_linear(cls, linear: nnx.Linear, **options: Any) -> "CirculantLinear":
        """The circulant layer nearest to a dense one in the Frobenius norm of the kernel.

        Args:
            linear: its kernel is projected; its bias, dtypes and precision are taken over.
            **options: further arguments of the class, such as `dtype`.

        Returns:
            The layer.

        Raises:
            TypeError: the kernel is complex.

        Example:
            >>> linear = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
            >>> CirculantLinear.from_linear(linear).column.shape
            (1, 6)
        """
        settings = from_linear_settings(linear)
        layer = cls(linear.in_features, linear.out_features, **settings | options)
        layer._replace_weights(project_to_circulant(linear.kernel[...].T))
        return layer

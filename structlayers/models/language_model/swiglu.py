"""The channel mixer of Transformer++ and GLA: a gated linear unit with swish."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.layers import PromoteDtype, require_features
from structlayers._core.precision import PrecisionLike
from structlayers.models.language_model import parts

_LECUN_NORMAL = nnx.initializers.lecun_normal()


class SwiGLU(nnx.Module):
    """`y = (swish(x W_g) * (x W_u)) W_d`, `3 d h` parameters.

    Args:
        features: size d of the last axis.
        hidden_features: size h between.
        dtype: the dtype of the computation; None is inferred from inputs and parameters.
        param_dtype: real dtype of the parameters.
        precision: of the products; None is the highest (see `structlayers`' precision rules).
        kernel_init: initializer of the projections.
        promote_dtype: casts inputs and parameters to `dtype`.
        rngs: random keys; `params` is used.
        in_kernel_metadata: metadata, such as `out_sharding`, of `W_g` and `W_u`, `(d, h)`.
        out_kernel_metadata: metadata of `W_d`, `(h, d)`.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> layer = SwiGLU(8, 24, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((5, 8))).shape
        (5, 8)

    References:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _LECUN_NORMAL,
        promote_dtype: PromoteDtype = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        in_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        out_kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.features = require_positive("features", features)
        self.hidden_features = require_positive("hidden_features", hidden_features)
        linear = partial(
            parts.projection,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            promote_dtype=promote_dtype,
            rngs=rngs,
        )
        self.gate = linear(features, hidden_features, metadata=in_kernel_metadata)
        self.up = linear(features, hidden_features, metadata=in_kernel_metadata)
        self.down = linear(hidden_features, features, metadata=out_kernel_metadata)

    def __call__(self, inputs: ArrayLike) -> jax.Array:
        """Applies the layer along the last axis, `(*B, features)` to `(*B, features)`."""
        with jax.named_scope("structlayers.SwiGLU"):
            require_features("inputs", inputs, self.features)
            x = jnp.asarray(inputs)
            return self.down(nnx.swish(self.gate(x)) * self.up(x))

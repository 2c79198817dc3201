"""The short convolution in front of queries, keys and values."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.typing import ArrayLike

from structlayers._core.layers import PromoteDtype
from structlayers.gla.ops import short_convolution


class ShortConvolution(nnx.Module):
    """`swish(short_convolution(x, kernel))`, and the inputs that the next call has to know.

    Args:
        features: size D of the last axis.
        size: number of taps W.
        param_dtype: real dtype of the kernel.
        promote_dtype: casts the kernel to the dtype of the data.
        rngs: random keys; `params` is used.
    """

    def __init__(
        self,
        features: int,
        size: int,
        *,
        param_dtype: Dtype,
        promote_dtype: PromoteDtype,
        rngs: nnx.Rngs,
    ):
        # uniform in +-1/sqrt(W), as torch draws the kernel of a depthwise convolution
        init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.kernel = nnx.Param(init(rngs.params(), (size, features), param_dtype))
        self.promote_dtype = promote_dtype

    def __call__(
        self, x: jax.Array, history: jax.Array | None, segment_ids: ArrayLike | None
    ) -> tuple[jax.Array, jax.Array]:
        """Applies the convolution.

        Args:
            x: `(*B, T, D)`.
            history: the inputs before, `(*B, W - 1, D)`, or None.
            segment_ids: integers `(*B, T)`, or None.

        Returns:
            `(*B, T, D)`, and history and x together, `(*B, W - 1 + T, D)`.
        """
        (kernel,) = self.promote_dtype((self.kernel[...],), dtype=x.dtype)
        if history is None:
            history = jnp.zeros((*x.shape[:-2], len(kernel) - 1, x.shape[-1]), x.dtype)
        out = short_convolution(x, kernel, history=history, segment_ids=segment_ids)
        return nnx.swish(out), jnp.concatenate([history, x], axis=-2)

    def zeros(self, *batch: int, dtype: Dtype) -> jax.Array:
        """The history before the first token."""
        taps, features = self.kernel.shape
        return jnp.zeros((*batch, taps - 1, features), dtype)


def last_inputs(seen: jax.Array, count: int, lengths: jax.Array | None) -> jax.Array:
    """The last `count` of `(*B, count + T, D)`, before the tokens that `lengths` does not count."""
    if lengths is None:
        return seen[..., seen.shape[-2] - count :, :]
    offset = jax.lax.broadcasted_iota(lengths.dtype, (*lengths.shape, count), lengths.ndim)
    index = lengths[..., None] + offset
    return jnp.take_along_axis(seen, index[..., None], axis=-2)

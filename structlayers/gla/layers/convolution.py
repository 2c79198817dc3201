"""The short convolution in front of queries, keys and values."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.typing import ArrayLike

from structlayers._core.layers import PromoteDtype
from structlayers.gla.layers.timewise import take_tokens
from structlayers.gla.ops import short_convolution
from structlayers.gla.sequence_axis import SequenceAxis


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


def inputs_before(
    axis: SequenceAxis,
    parts: Sequence[jax.Array],
    history: Sequence[jax.Array] | None,
    count: int,
    segment_ids: ArrayLike | None,
) -> Sequence[jax.Array] | None:
    """The last `count` inputs of the rank before, where its segment goes on, by one message.

    Args:
        axis: over whose ranks the sequences go on.
        parts: this rank's inputs, each `(*B, T, D)`.
        history: inputs before the first rank's, each `(*B, count, D)`; None for zeros.
        count: `W - 1`.
        segment_ids: integers `(*B, T)`, or None.

    Returns:
        For every part `(*B, count, D)`.

    Raises:
        ValueError: T is less than `count`.
    """
    if count == 0:
        return history
    time = parts[0].shape[-2]
    if time < count:
        raise ValueError(
            f"inputs must have at least conv_size - 1 = {count} tokens on every rank, "
            f"got T = {time}"
        )
    ends = [sum(part.shape[-1] for part in parts[:i]) for i in range(1, len(parts))]
    tails = jnp.concatenate([part[..., time - count :, :] for part in parts], axis=-1)
    seen = axis.from_previous(tails)
    if segment_ids is not None:
        ids = jnp.asarray(segment_ids)
        own = axis.from_previous(ids[..., time - count :]) == ids[..., :1]
        seen = jnp.where(own[..., None], seen, jnp.zeros_like(seen))
    received = jnp.split(seen, ends, axis=-1)
    if history is None:
        return received
    first = axis.position == 0
    return [jnp.where(first, one, other) for one, other in zip(history, received, strict=True)]


def last_inputs(
    seen: jax.Array, count: int, lengths: jax.Array | None, axis: SequenceAxis | None = None
) -> jax.Array:
    """The last `count` of `(*B, count + T, D)`, before the tokens that `lengths` does not count.

    With an axis, of all ranks; `lengths` must be given.
    """
    if lengths is None:
        return seen[..., seen.shape[-2] - count :, :]
    offset = jax.lax.broadcasted_iota(lengths.dtype, (*lengths.shape, count), lengths.ndim)
    return take_tokens(seen, lengths[..., None] + offset, axis, before=count)

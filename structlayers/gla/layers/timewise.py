"""What layers over sequences share: their shape, heads, tokens that count, the norm in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from structlayers._core.layers import require_features
from structlayers._core.precision import accumulation_dtype
from structlayers.gla.ops.arguments import check_lengths
from structlayers.gla.sequence_axis import SequenceAxis


def normalize(norm: nnx.RMSNorm, x: jax.Array) -> jax.Array:
    """The norm in float32 at least, rounded once to the dtype of x."""
    return norm(x.astype(accumulation_dtype(x.dtype))).astype(x.dtype)


def sequences(inputs: ArrayLike, features: int) -> jax.Array:
    """Inputs `(*B, T, features)` as an array.

    Raises:
        ValueError: another shape.
    """
    require_features("inputs", inputs, features)
    x = jnp.asarray(inputs)
    if x.ndim < 2:
        raise ValueError(f"inputs must have shape (*B, T, {features}), got {x.shape}")
    return x


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """`(..., H D)` to `(..., H, D)`."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def counted(
    lengths: ArrayLike | None, lead: tuple[int, ...], axis: SequenceAxis | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """How many tokens of each sequence count, and which.

    Args:
        lengths: integers `(*B,)` from 0 to T, or None for T. Where ranks share the sequences, T is
            that of all ranks together.
        lead: `(*B, T)`, of one rank.
        axis: over whose ranks the sequences go on; or None.

    Returns:
        int32 `(*B,)`, and bool `(*B, T)` or None where all count.

    Raises:
        ValueError: another shape, or known values out of range.
        TypeError: not integers.
    """
    *batch, time = lead
    total = time if axis is None else time * axis.size
    if lengths is None:
        return jnp.full(batch, total, jnp.int32), None
    counts = check_lengths(lengths, (*batch, total)).astype(jnp.int32)
    start = 0 if axis is None else axis.position * time
    return counts, time_index(lead) + start < counts[..., None]


def time_index(lead: tuple[int, ...]) -> jax.Array:
    """int32 `(*B, T)`: 0 to T - 1 in every row."""
    return jax.lax.broadcasted_iota(jnp.int32, lead, len(lead) - 1)


def take_tokens(
    x: jax.Array, index: jax.Array, axis: SequenceAxis | None = None, *, before: int = 0
) -> jax.Array:
    """Some tokens of every sequence, on all ranks.

    Args:
        x: `(*B, W + T, D)`; the first W are those before this rank's T tokens.
        index: int32 `(*B, n)`, counted from the first rank's x.
        axis: over whose ranks the sequences go on; or None.
        before: W.

    Returns:
        `(*B, n, D)`.
    """
    if axis is None:
        return jnp.take_along_axis(x, index[..., None], axis=-2)
    index = index - axis.position * (x.shape[-2] - before)
    taken = jnp.take_along_axis(x, index[..., None], axis=-2, mode="clip")
    own = (index >= jnp.where(axis.position == 0, 0, before)) & (index < x.shape[-2])
    return axis.from_owner(taken, own[..., None])


def zero_uncounted(outputs: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Outputs `(*B, T, D)`, 0 for tokens that do not count."""
    return outputs if valid is None else jnp.where(valid[..., None], outputs, 0)

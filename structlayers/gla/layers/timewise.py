"""What layers over sequences share: their shape, heads, tokens that count, the norm in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from structlayers._core.layers import require_features
from structlayers._core.precision import accumulation_dtype
from structlayers.gla.ops.arguments import check_lengths


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


def counted(lengths: ArrayLike | None, lead: tuple[int, ...]) -> tuple[jax.Array, jax.Array | None]:
    """How many tokens of each sequence count, and which.

    Args:
        lengths: integers `(*B,)` from 0 to T, or None for T.
        lead: `(*B, T)`.

    Returns:
        int32 `(*B,)`, and bool `(*B, T)` or None where all count.

    Raises:
        ValueError: another shape, or known values out of range.
        TypeError: not integers.
    """
    if lengths is None:
        return jnp.full(lead[:-1], lead[-1], jnp.int32), None
    counts = check_lengths(lengths, lead).astype(jnp.int32)
    return counts, time_index(lead) < counts[..., None]


def time_index(lead: tuple[int, ...]) -> jax.Array:
    """int32 `(*B, T)`: 0 to T - 1 in every row."""
    return jax.lax.broadcasted_iota(jnp.int32, lead, len(lead) - 1)


def zero_uncounted(outputs: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Outputs `(*B, T, D)`, 0 for tokens that do not count."""
    return outputs if valid is None else jnp.where(valid[..., None], outputs, 0)

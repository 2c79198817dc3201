"""What the mixers share: projections, the norm in float32, tokens that count, rotary angles."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax.typing import ArrayLike

from structlayers._core.layers import PromoteDtype, require_features
from structlayers._core.precision import PrecisionLike, accumulation_dtype, canonicalize_precision
from structlayers.gla.ops.arguments import check_lengths


def projection(
    inputs: int,
    outputs: int,
    *,
    dtype: Dtype | None,
    param_dtype: Dtype,
    precision: PrecisionLike,
    kernel_init: Initializer,
    promote_dtype: PromoteDtype,
    metadata: Mapping[str, Any],
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """An `nnx.Linear` without bias, with the precision rules of the library."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=False,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=canonicalize_precision(precision),
        kernel_init=kernel_init,
        promote_dtype=promote_dtype,
        kernel_metadata=metadata,
        rngs=rngs,
    )


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


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding: channels i and i + K/2 turn by `position theta^(-2 i / K)`.

    Products of a rotated query and a rotated key depend on the difference of their positions only.
    Angles, sines and the rotation are float32 at least.

    Args:
        x: `(*B, T, H, K)`, K even.
        positions: integers `(*B, T)`.
        theta: base of the angles.

    Returns:
        As x.

    Example:
        >>> quarter = jnp.full((1, 1, 2), 1.0)
        >>> rotate(quarter, jnp.array([0]), 10000.0).tolist()
        [[[1.0, 1.0]]]

    References:
        Su, Lu, Pan, Murtadha, Wen, Liu, "RoFormer", 2021, arXiv:2104.09864, equation 34, with
        the pairing of channels that most released models have.
    """
    dtype = accumulation_dtype(x.dtype)
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=dtype) / half)
    angles = positions[..., None, None].astype(dtype) * frequencies.reshape(
        (1,) * (positions.ndim + 1) + (half,)
    )
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(dtype), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def require_even_heads(name: str, size: int, heads: int) -> None:
    """Checks that heads divide a size and that each is even, as rotation needs.

    Raises:
        ValueError: they do not, or it is odd.
    """
    if size % (2 * heads):
        raise ValueError(f"{name} must be a multiple of 2 num_heads = {2 * heads}, got {size}")

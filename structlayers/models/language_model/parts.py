"""What the mixers share: projections and rotary angles."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer

from structlayers._core.layers import PromoteDtype
from structlayers._core.precision import PrecisionLike, accumulation_dtype, canonicalize_precision


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


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding: channels i and i + K/2 turn by `position theta^(-2 i / K)`.

    Products of a rotated query and a rotated key depend on the difference of their positions only.
    Angles, sines and the rotation are float32 at least.

    Args:
        x: `(*B, T, H, K)`, K even.
        positions: integers `(*B, T)`, axes of 1 are broadcast: what is equal is computed once.
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

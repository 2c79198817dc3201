"""Random Monarch factors that keep the second moment of their input."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from structlayers.butterfly.monarch.shapes import monarch_shapes


def monarch_init(
    key: jax.Array,
    in_features: int,
    out_features: int,
    num_blocks: int | tuple[int, int] = 4,
    *,
    block_rank: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> tuple[jax.Array, jax.Array]:
    """Independent normal entries of variance 1/p and 1/r, the fan-in of a block of each factor.

    A value sees the p inputs of its own block, not all of them: the fan-in is the width of the
    block. For unit-variance inputs every output then has variance one (up to padding).

    Args:
        key: random key.
        in_features: size of the input.
        out_features: size of the output.
        num_blocks: k and l, or one number for both.
        block_rank: as in `monarch_shapes`.
        dtype: real or complex floating point.

    Returns:
        `blocks1` `(k, q, p)` and `blocks2` `(l, s, r)`.

    Raises:
        TypeError: an integer dtype, or a size that is not an integer.
        ValueError: a size is below 1.

    Example:
        >>> import jax
        >>> blocks1, blocks2 = monarch_init(jax.random.key(0), 768, 3072)
        >>> blocks1.shape, blocks2.shape
        ((4, 192, 192), (4, 768, 192))
    """
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.inexact):
        raise TypeError(f"dtype must be floating point or complex, got {jnp.dtype(dtype)}")
    shapes = monarch_shapes(in_features, out_features, num_blocks, block_rank=block_rank)
    keys = jax.random.split(key)
    first, second = (
        jax.random.normal(k, shape, dtype) * jnp.asarray(1 / math.sqrt(shape[-1]), dtype)
        for k, shape in zip(keys, shapes, strict=True)
    )
    return first, second

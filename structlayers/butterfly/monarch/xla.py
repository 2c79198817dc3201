"""Portable Monarch products: two batched matrix products, or one with the whole matrix."""

import jax
import jax.numpy as jnp

from structlayers._core.operands import pad_features
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.butterfly.monarch.dense import monarch_to_dense
from structlayers.butterfly.monarch.shapes import monarch_sizes


def monarch_multiply(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Two batched matrix products, half-precision operands summed in float32.

    Args:
        x: `(*B, n)`, n at most `k p`.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`.
        out_features: number of outputs kept.
        precision: of the products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    sizes = monarch_sizes(blocks1, blocks2)
    lead, dtype = x.shape[:-1], x.dtype
    precision = canonicalize_precision(precision)
    wide = accumulation_dtype(dtype)
    x = pad_features(x, sizes.in_features).reshape(*lead, sizes.k, sizes.p)
    middle = jnp.einsum(
        "...kp,kqp->...kq",
        x,
        blocks1.astype(dtype),
        precision=precision,
        preferred_element_type=wide,
    ).astype(dtype)
    middle = middle.reshape(*lead, sizes.r, sizes.l)
    out = jnp.einsum(
        "...rl,lsr->...sl",
        middle,
        blocks2.astype(dtype),
        precision=precision,
        preferred_element_type=wide,
    ).astype(dtype)
    return out.reshape(*lead, sizes.out_features)[..., :out_features]


def monarch_multiply_dense(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """One product with the materialised matrix; arguments and result as in `monarch_multiply`."""
    dtype = x.dtype
    precision = canonicalize_precision(precision)
    matrix = monarch_to_dense(
        blocks1,
        blocks2,
        in_features=x.shape[-1],
        out_features=out_features,
        precision=precision,
    )
    return jnp.einsum(
        "...n,mn->...m",
        x,
        matrix.astype(dtype),
        precision=precision,
        preferred_element_type=accumulation_dtype(dtype),
    ).astype(dtype)

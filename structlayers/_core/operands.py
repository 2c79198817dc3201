"""Operands of structured products: padded data, dtypes of data and weights, cut outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers._core.checks import require_inexact, require_positive
from structlayers._core.precision import accumulation_dtype


def check_input(x: ArrayLike, size: int) -> jax.Array:
    """Returns x as an array; it must be floating point or complex, with 1 to ``size`` features."""
    x = jnp.asarray(x)
    require_inexact("x", x)
    if x.ndim < 1 or not 1 <= x.shape[-1] <= size:
        raise ValueError(
            f"x must have between 1 and N = {size} features on its last axis, got shape {x.shape}"
        )
    return x


def check_out_features(out_features: int | None, available: int) -> int:
    """Returns the number of outputs to keep."""
    if out_features is None:
        return available
    out_features = require_positive("out_features", out_features)
    if out_features > available:
        raise ValueError(
            f"out_features must be at most stacks * N = {available}, got {out_features}"
        )
    return out_features


def operand_dtypes(x: DTypeLike, weights: DTypeLike) -> tuple[np.dtype, np.dtype]:
    """Dtypes in which data and weights go to an implementation.

    Half-precision data with real weights stay half, with weights in float32 at least; otherwise
    both take the wider dtype, complex if either is. This is the library's explicit promotion,
    for the strict mode of JAX has none between different dtypes.

    Args:
        x: Dtype of the data.
        weights: Dtype of the weights.

    Returns:
        The dtype of data and result, and that of the weights.
    """
    x = jnp.dtype(x)
    wide_x, wide = accumulation_dtype(x), accumulation_dtype(weights)
    if x != wide_x and not jnp.issubdtype(wide, jnp.complexfloating):
        return x, wide
    common = np.promote_types(wide_x, wide)
    return common, common


def pad_features(x: jax.Array, *sizes: int) -> jax.Array:
    """Zeros after the last axes, one for each of ``sizes``, up to these."""
    last = x.shape[-len(sizes) :]
    if last == sizes:
        return x
    pads = [(0, size - have) for size, have in zip(sizes, last, strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + pads)

"""Argument checks that the butterfly operations share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from structlayers._core.checks import require_inexact, require_positive
from structlayers._core.precision import accumulation_dtype
from structlayers.butterfly.permutations import is_known, require_permutation


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


def check_permutation(name: str, permutation: ArrayLike, size: int) -> np.ndarray | jax.Array:
    """Returns a permutation of ``size``, as a NumPy array where its values are known."""
    require_permutation(name, permutation, size)
    return np.asarray(permutation) if is_known(permutation) else jnp.asarray(permutation)


def check_permutations(
    permutation: ArrayLike | None, blocks: int, size: int
) -> list[np.ndarray | jax.Array] | None:
    """Returns one permutation of ``size`` per block, or None."""
    if permutation is None:
        return None
    shape = np.shape(permutation)
    if shape not in ((size,), (blocks, size)):
        raise ValueError(
            f"permutation must have shape (N,) = ({size},) or (K, N) = ({blocks}, {size}), "
            f"got {shape}"
        )
    array = check_permutation("permutation", permutation, size)
    return [array] * blocks if len(shape) == 1 else [array[k] for k in range(blocks)]


def operand_dtypes(x: DTypeLike, weights: DTypeLike) -> tuple[np.dtype, np.dtype]:
    """Dtypes in which data and weights go to an implementation.

    Half-precision data with real weights stay half, with weights in float32 at least; otherwise
    both take the wider dtype, complex if either is. This is the family's explicit promotion, for
    the strict mode of JAX has none between different dtypes.

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


def check_blocks(blocks: Sequence[ArrayLike]) -> tuple[tuple[jax.Array, ...], int, int]:
    """Checks factors in block form; returns them as arrays, with stacks and transform size."""
    arrays = tuple(jnp.asarray(weights) for weights in blocks)
    if not arrays:
        raise ValueError("blocks must hold at least one array, got none")
    for g, weights in enumerate(arrays):
        require_inexact(f"blocks[{g}]", weights)
        shape = weights.shape
        if weights.ndim != 5 or shape[3] != shape[4] or 0 in shape:
            raise ValueError(f"blocks[{g}] must have shape (S, P, s, R, R), got {shape}")
    size = math.prod(weights.shape[-1] for weights in arrays)
    stacks, stride = arrays[0].shape[0], 1
    for g, weights in enumerate(arrays):
        radix = weights.shape[-1]
        copies = size // (radix * stride)
        if weights.shape not in (
            (stacks, copies, stride, radix, radix),
            (stacks, 1, stride, radix, radix),
        ):
            raise ValueError(
                f"blocks[{g}] must have shape (S, P, s, R, R) = ({stacks}, {copies} or 1, "
                f"{stride}, {radix}, {radix}) for N = {size}, got {weights.shape}"
            )
        stride *= radix
    return arrays, stacks, size

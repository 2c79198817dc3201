"""Argument checks that the butterfly operations share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import is_known, require_inexact
from structlayers.butterfly.permutations import require_permutation


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

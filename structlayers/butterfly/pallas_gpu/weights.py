"""Merged factors in the order in which lanes hold the operands of tensor-core products."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.butterfly.pallas_gpu.tensor_layout import Factor


def fragments(blocks: Sequence[jax.Array]) -> jax.Array:
    """Words of all factors: 16x16 tiles of bfloat16, lane by lane.

    A tile of rows i and columns j lies as ``[g, t, column half, row half, j % 2]`` with
    ``i = 8 (row half) + g`` and ``j = 8 (column half) + 2t + j % 2``: two or four words in each
    lane ``4g + t``. Radices below 16 are packed along the diagonal of a tile, of which the two
    quarters off the diagonal, all zeros, are left out.

    Args:
        blocks: Arrays ``(P, s, R, R)`` in the order of application.

    Returns:
        A vector of 32-bit words, factor after factor.
    """
    words = []
    for block in blocks:
        radix = block.shape[-1]
        matrices = block.reshape(-1, radix, radix).astype(jnp.bfloat16)
        if radix < 16:
            matrices = _packed(matrices)
        side = matrices.shape[-1] // 16
        # i tile, row half, g, j tile, column half, t, j % 2
        tiles = matrices.reshape(-1, side, 2, 8, side, 2, 4, 2)
        tiles = tiles.transpose(0, 1, 4, 3, 6, 5, 2, 7)
        if radix < 16:
            tiles = jnp.stack([tiles[..., 0, 0, :], tiles[..., 1, 1, :]], axis=-2)
        words.append(lax.bitcast_convert_type(tiles, jnp.uint32).ravel())
    return jnp.concatenate(words)


def _packed(matrices: jax.Array) -> jax.Array:
    """Block-diagonal 16x16 matrices of consecutive smaller ones."""
    radix = matrices.shape[-1]
    count = 16 // radix
    eye = jnp.eye(count, dtype=matrices.dtype)
    spread = jnp.einsum("mbij,bc->mbicj", matrices.reshape(-1, count, radix, radix), eye)
    return spread.reshape(-1, 16, 16)


def from_sums(sums: jax.Array, factor: Factor) -> jax.Array:
    """A gradient in block form from the sums of all lanes, those of all blocks of threads added up.

    Args:
        sums: ``(sets, threads, fragments, 4)``, float32.
        factor: whose gradient it is.

    Returns:
        Array ``(P, s, R, R)``.
    """
    total = sums.sum(0)
    radix = factor.radix
    if radix < 16:
        # product and diagonal block of 8 columns, row, column: (product, g, t, block, j % 2)
        corners = total.reshape(-1, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4)
        corners = corners.reshape(-1, 8 // radix, radix, 8 // radix, radix)
        blocks = jnp.einsum("qaiaj->qaij", corners)
    else:
        # i tile, j half tile, g, t, row half, j % 2
        tiles = total.reshape(-1, radix // 16, radix // 8, 8, 4, 2, 2)
        blocks = tiles.transpose(0, 1, 5, 3, 2, 4, 6)
    return blocks.reshape(-1, factor.stride, radix, radix)

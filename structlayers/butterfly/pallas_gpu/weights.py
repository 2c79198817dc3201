"""Merged factors in the order in which lanes hold the operands of tensor-core products.

Written so that XLA makes one kernel of it all, from the factors to the words.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.butterfly.factors import merge_levels
from structlayers.butterfly.pallas_gpu.tensor_layout import Factor

# Kernels that XLA for Hopper makes of `merged_factors` and `fragments` (compiled ahead of time, jax
# 0.11.2), small strides first and large strides first; before: increasing factors merged as they
# are, pairs packed by a bitcast that changes the rank, radices below 16 placed by a product.
#
#      N       untied before     untied      tied before      tied
#      512           3 3           1 1           3 3           1 1
#     1024           3 1           1 1           3 1           1 1
#     2048           4 2           1 1           2 2           1 1
#     4096           4 1           1 1           2 1           1 1
#     8192           7 6           4 4           2 5           2 2
#
# One product of an entry of every level, without the halving of `merge_levels`: 2 to 8 where
# small strides come first.


def merged_factors(
    factors: jax.Array, radices: Sequence[int], increasing: bool
) -> dict[int, jax.Array]:
    """Factors of these radices.

    Args:
        factors: ``(M, N/2, 2, 2)``, or tied ``(N-1, 2, 2)``.
        radices: by increasing stride, their product is N.
        increasing: whether factors of small stride come first.

    Returns:
        Arrays ``(N/(R s), s, R, R)`` by stride s.
    """
    # XLA fuses the decreasing form with what follows; the increasing one is its transpose
    twiddle = factors[None, None]
    twiddle = twiddle.swapaxes(-1, -2) if increasing else twiddle
    size, blocks, start = math.prod(radices), {}, 0
    for radix in radices:
        stop = start + radix.bit_length() - 1
        block = merge_levels(twiddle, 0, start, stop, increasing_stride=False)[0]
        block = block.swapaxes(-1, -2) if increasing else block
        blocks[1 << start] = jnp.broadcast_to(block, (size >> stop, *block.shape[1:]))
        start = stop
    return blocks


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
    return jnp.concatenate([_words(block) for block in blocks])


def _words(block: jax.Array) -> jax.Array:
    """Words of one factor ``(P, s, R, R)``."""
    radix = block.shape[-1]
    if radix < 16:
        # block-diagonal quarters of 8x8: product, half, g, t, j % 2
        count = 8 // radix
        diagonal = jnp.eye(count, dtype=bool)[:, None, :, None]
        quarters = jnp.where(diagonal, block.reshape(-1, 2, count, radix, 1, radix), 0)
        tiles = quarters.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4)
    else:
        # i tile, row half, g, j tile, column half, t, j % 2
        side = radix // 16
        tiles = block.reshape(-1, side, 2, 8, side, 2, 4, 2)
        tiles = tiles.transpose(0, 1, 4, 3, 6, 5, 2, 7)
    # shifts, because XLA makes a reduction of a bitcast of pairs, which does not fuse
    halves = lax.bitcast_convert_type(tiles.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    return (halves[..., 0] | halves[..., 1] << 16).ravel()


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

"""Between two factors in block form and the two factors of a Monarch matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers.butterfly.ops.arguments import check_blocks


def blocks_to_monarch(blocks: Sequence[ArrayLike]) -> tuple[jax.Array, jax.Array]:
    """The Monarch factors of two factors in block form, applied by increasing stride.

    The factor of stride 1 is block diagonal: ``blocks1[k] = W_0[k, 0]``. The other one, of stride
    ``R_0``, is block diagonal after the transposition in the middle: ``blocks2[l] = W_1[0, l]``.
    `merge_butterfly` and `merge_blocks` bring any chain to two factors.

    Args:
        blocks: Arrays ``(1, P_0, 1, R_0, R_0)`` and ``(1, 1, R_0, R_1, R_1)``, with ``P_0 = R_1``,
            or 1 where all blocks are equal.

    Returns:
        ``blocks1`` of shape ``(R_1, R_0, R_0)`` and ``blocks2`` of shape ``(R_0, R_1, R_1)``, for
        `monarch_multiply`.

    Raises:
        TypeError: If a block holds integers.
        ValueError: If there are not two factors of one stack, or their shapes do not fit.

    Example:
        >>> first, second = blocks_to_monarch(
        ...     (jnp.ones((1, 2, 1, 3, 3)), jnp.ones((1, 1, 3, 2, 2)))
        ... )
        >>> first.shape, second.shape
        ((2, 3, 3), (3, 2, 2))

    References:
        Dao et al., "Monarch", 2022, arXiv:2204.00595, section 3.1.
    """
    arrays, stacks, _ = check_blocks(blocks)
    if len(arrays) != 2 or stacks != 1:
        raise ValueError(
            f"blocks must be two factors of one stack, got {len(arrays)} factors of {stacks} "
            f"stacks; merge_blocks joins factors"
        )
    low, high = arrays
    copies = high.shape[-1]
    return jnp.broadcast_to(low[0, :, 0], (copies, *low.shape[-2:])), high[0, 0]


def monarch_to_blocks(blocks1: ArrayLike, blocks2: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The block form of a square Monarch matrix: the inverse of `blocks_to_monarch`.

    Args:
        blocks1: ``(k, q, p)`` with ``q = p``.
        blocks2: ``(l, s, r)`` with ``s = r = k`` and ``l = p``.

    Returns:
        Arrays ``(1, k, 1, p, p)`` and ``(1, 1, p, k, k)``, for `block_butterfly_multiply`.

    Raises:
        TypeError: If an argument holds integers.
        ValueError: If the blocks are not square or their numbers do not fit: then the
            transposition in the middle mixes other indices than a chain of strides does.

    Example:
        >>> low, high = monarch_to_blocks(jnp.ones((2, 3, 3)), jnp.ones((3, 2, 2)))
        >>> low.shape, high.shape
        ((1, 2, 1, 3, 3), (1, 1, 3, 2, 2))
    """
    blocks1, blocks2 = jnp.asarray(blocks1), jnp.asarray(blocks2)
    require_inexact("blocks1", blocks1)
    require_inexact("blocks2", blocks2)
    number, width = (blocks1.shape[0], blocks1.shape[-1]) if blocks1.ndim == 3 else (0, 0)
    if blocks1.shape != (number, width, width) or blocks2.shape != (width, number, number):
        raise ValueError(
            f"blocks1 and blocks2 must have shapes (k, p, p) and (p, k, k), "
            f"got {blocks1.shape} and {blocks2.shape}"
        )
    return blocks1[None, :, None], blocks2[None, None]

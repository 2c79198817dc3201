"""The dense matrix of a butterfly, from products of entries alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers._core.operands import check_out_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.factors import block_directions, merge_levels, twiddle_sizes
from structlayers.butterfly.ops.arguments import check_permutations
from structlayers.butterfly.permutations import apply_permutation, inverse_permutation


def butterfly_to_dense(
    twiddle: ArrayLike,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    permutation: ArrayLike | None = None,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """The matrix that `butterfly_multiply` with the same arguments applies to a column vector.

    ``B_{K-1} P_{K-1} ... B_0 P_0``, the stacks one below the other. Inside a block no sum is
    taken: between an input and an output index there is one path, so every entry is a product of
    ``log2 N`` twiddle entries. ``O(N**2)`` multiplications per block and stack, and as much memory
    for the gradient; a matrix product only between blocks.

    Args:
        twiddle: ``(S, K, M, N/2, 2, 2)``, or tied ``(S, K, N-1, 2, 2)``.
        increasing_stride: Whether block 0 multiplies strides 1, 2, ..., N/2 in that order.
        alternating: Whether the direction alternates from block to block.
        permutation: Integers ``(N,)`` or ``(K, N)``: before block k the input is indexed by
            ``permutation[k]``. None: no permutation.
        out_features: Number of rows kept, at most ``S * N``. None: all.
        precision: Of the products between blocks; None is the highest.

    Returns:
        Array ``(out_features, N)`` of the dtype of the twiddle.

    Raises:
        TypeError: If the twiddle holds integers or the permutation does not.
        ValueError: If a shape does not fit.

    Example:
        >>> twiddle = jnp.array([[1.0, 1.0], [1.0, -1.0]]).reshape(1, 1, 1, 1, 2, 2)
        >>> butterfly_to_dense(twiddle).tolist()
        [[1.0, 1.0], [1.0, -1.0]]

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, section 3.2.
    """
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    permutations = check_permutations(permutation, sizes.blocks, sizes.size)
    out_features = check_out_features(out_features, sizes.stacks * sizes.size)
    precision = canonicalize_precision(precision)
    blocks = []
    directions = block_directions(sizes.blocks, increasing_stride, alternating)
    for k, increasing in enumerate(directions):
        if sizes.levels:
            block = merge_levels(twiddle, k, 0, sizes.levels, increasing)[:, 0, 0]
        else:
            block = jnp.ones((sizes.stacks, 1, 1), twiddle.dtype)
        if permutations is not None:
            # (B P)[r, p[i]] = B[r, i]
            block = apply_permutation(block, inverse_permutation(permutations[k]))
        blocks.append(block)
    dense = blocks[0]
    for block in blocks[1:]:
        dense = jnp.einsum("sij,sjk->sik", block, dense, precision=precision)
    return dense.reshape(sizes.stacks * sizes.size, sizes.size)[:out_features]

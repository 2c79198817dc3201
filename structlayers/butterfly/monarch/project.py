"""The Monarch matrix nearest to a dense one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers._core.precision import accumulation_dtype
from structlayers.butterfly.monarch.shapes import MonarchSizes, block_terms, monarch_shapes


def project_to_monarch(
    matrix: ArrayLike,
    num_blocks: int | tuple[int, int] = 4,
    *,
    block_rank: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Nearest Monarch matrix in Frobenius norm: one truncated SVD for each of the `k l` blocks.

    The entries of output block l (rows l, l + l', ..) and input block k (neighbouring columns)
    form an `s x p` matrix that the factors reach with no others: any matrix of rank up to the
    number of middle values of the pair. So the best approximation of each by truncated SVD
    (Eckart and Young) is the projection, exact for members of the class. Singular values are
    shared evenly by both factors. `O(in out min(s, p))` work; works under jit and vmap.

    Args:
        matrix: `(out, in)`, real or complex; padded with zeros where the blocks do not divide it.
        num_blocks: k and l, or one number for both.
        block_rank: rank of each block; None is the largest middle, as in `monarch_shapes`.

    Returns:
        `blocks1` `(k, q, p)` and `blocks2` `(l, s, r)` of the dtype of the matrix, for
        `monarch_multiply(x, blocks1, blocks2, out_features=out)`.

    Raises:
        TypeError: integers or bools.
        ValueError: the matrix has not two axes, an empty one, or a size is below 1.

    Example:
        >>> from structlayers.butterfly.ops.monarch import monarch_multiply
        >>> matrix = jnp.outer(jnp.arange(1.0, 7.0), jnp.arange(1.0, 5.0))
        >>> blocks1, blocks2 = project_to_monarch(matrix, 2, block_rank=1)
        >>> y = monarch_multiply(jnp.ones(4), blocks1, blocks2)
        >>> bool(jnp.allclose(y, matrix @ jnp.ones(4), atol=1e-3))
        True

    References:
        Dao et al., "Monarch: expressive structured matrices for efficient and accurate training",
        2022, arXiv:2204.00595, section 3.3 and theorem 1.
    """
    matrix = jnp.asarray(matrix)
    require_inexact("matrix", matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"matrix must have shape (out, in), none of them 0, got {matrix.shape}")
    rows, columns = matrix.shape
    shape1, shape2 = monarch_shapes(columns, rows, num_blocks, block_rank=block_rank)
    sizes = MonarchSizes(*shape1, *shape2)
    padding = ((0, sizes.out_features - rows), (0, sizes.in_features - columns))
    padded = jnp.pad(matrix.astype(accumulation_dtype(matrix.dtype)), padding)
    blocks = padded.reshape(sizes.s, sizes.l, sizes.k, sizes.p).transpose(2, 1, 0, 3)  # k l s p
    left, singular, right = jnp.linalg.svd(blocks, full_matrices=False)
    root = jnp.sqrt(singular).astype(left.dtype)[..., None]  # k l t 1
    left = left.swapaxes(-1, -2) * root  # k l t s
    right = right * root  # k l t p

    input_block, output_block, rank = _places(sizes)
    kept = min(sizes.s, sizes.p)
    # a middle value beyond the number of singular values has nothing to carry
    used = jnp.asarray(rank < kept, left.dtype)[:, None]
    index = (input_block, output_block, np.minimum(rank, kept - 1))
    rows1 = (used * right[index]).reshape(sizes.k, sizes.q, sizes.p)
    rows2 = (used * left[index]).reshape(sizes.r, sizes.l, sizes.s).transpose(1, 2, 0)
    return rows1.astype(matrix.dtype), rows2.astype(matrix.dtype)


def _places(sizes: MonarchSizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input block, output block, and position among the pair's values, of every middle value."""
    terms, valid = block_terms(sizes)
    places = np.zeros((3, sizes.middle), np.int64)
    places[:, terms[valid]] = np.stack(np.nonzero(valid))
    input_block, output_block, rank = places
    return input_block, output_block, rank

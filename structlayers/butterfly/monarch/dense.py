"""The dense matrix of two Monarch factors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.butterfly.monarch.shapes import block_terms, monarch_sizes


def monarch_to_dense(
    blocks1: ArrayLike,
    blocks2: ArrayLike,
    *,
    in_features: int | None = None,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """The matrix that `monarch_multiply` applies to a column vector.

    Row `s l' + l` (l' the number of second blocks) and column `k p' + p` belong to block `(l, k)`,
    the sum over the middle values m of that pair of `blocks2[l, :, m // l'] blocks1[k, m % q', :]`:
    a matrix of rank `ceil(q' / l')` at most. `O(in out rank)` work.

    Args:
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`, `k q = l r`.
        in_features: columns kept, at most `k p`; None is all.
        out_features: rows kept, at most `s l`; None is all.
        precision: of the products; None is the highest.

    Returns:
        `(out_features, in_features)` of the wider dtype of the factors.

    Raises:
        TypeError: integers or bools.
        ValueError: the shapes do not fit, or more rows or columns are wanted than there are.

    Example:
        >>> monarch_to_dense(jnp.array([[[2.0, 1.0]]]), jnp.array([[[1.0], [3.0]]])).tolist()
        [[2.0, 1.0], [6.0, 3.0]]
    """
    blocks1, blocks2 = jnp.asarray(blocks1), jnp.asarray(blocks2)
    sizes = monarch_sizes(blocks1, blocks2)
    columns = check_features("in_features", in_features, sizes.in_features, "k p")
    rows = check_features("out_features", out_features, sizes.out_features, "s l")
    dtype = np.promote_types(blocks1.dtype, blocks2.dtype)
    right = blocks1.astype(dtype).reshape(sizes.middle, sizes.p)  # m p
    left = blocks2.astype(dtype).transpose(2, 0, 1).reshape(sizes.middle, sizes.s)  # m s
    if sizes.q % sizes.l == 0:  # m = (k, c, l): every pair has the same number of values
        right = right.reshape(sizes.k, -1, sizes.l, sizes.p).swapaxes(1, 2)
        left = left.reshape(sizes.k, -1, sizes.l, sizes.s).swapaxes(1, 2)
    else:
        terms, valid = block_terms(sizes)
        right = right[terms]
        left = jnp.where(valid[..., None], left[terms], jnp.zeros((), dtype))
    if right.shape[2] == 1:
        blocks = left[:, :, 0, :, None] * right[:, :, 0, None, :]  # k l s p
    else:
        blocks = jnp.einsum(
            "klcs,klcp->klsp",
            left,
            right,
            precision=canonicalize_precision(precision),
            preferred_element_type=accumulation_dtype(dtype),
        ).astype(dtype)
    matrix = blocks.transpose(2, 1, 0, 3).reshape(sizes.out_features, sizes.in_features)
    return matrix[:rows, :columns]


def check_features(name: str, features: int | None, available: int, product: str) -> int:
    """Returns the number of features to keep, `available` for None."""
    if features is None:
        return available
    features = require_positive(name, features)
    if features > available:
        raise ValueError(f"{name} must be at most {product} = {available}, got {features}")
    return features

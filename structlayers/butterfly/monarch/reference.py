"""The definition of the Monarch product, in plain sums: oracle of the tests."""

import jax
import jax.numpy as jnp

from structlayers._core.precision import PrecisionLike, accumulation_dtype
from structlayers.butterfly.monarch.shapes import monarch_sizes


def monarch_multiply(
    x: jax.Array,
    blocks1: jax.Array,
    blocks2: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Multiplies block by block, as sums of products.

    Args:
        x: `(*B, n)`, n at most `k p`.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`.
        out_features: number of outputs kept.
        precision: not used, there is no matrix product.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    del precision
    sizes = monarch_sizes(blocks1, blocks2)
    lead, dtype = x.shape[:-1], x.dtype
    wide = accumulation_dtype(dtype)
    blocks1, blocks2 = blocks1.astype(wide), blocks2.astype(wide)
    padded = jnp.zeros((*lead, sizes.in_features), wide).at[..., : x.shape[-1]].set(x.astype(wide))
    parts = padded.reshape(*lead, sizes.k, 1, sizes.p)
    ones = (1,) * len(lead)
    middle = (blocks1.reshape(*ones, *blocks1.shape) * parts).sum(-1)  # *B k q
    middle = middle.reshape(*lead, sizes.r, sizes.l).swapaxes(-1, -2)  # *B l r
    parts = middle.reshape(*lead, sizes.l, 1, sizes.r)
    out = (blocks2.reshape(*ones, *blocks2.shape) * parts).sum(-1)  # *B l s
    out = out.swapaxes(-1, -2).reshape(*lead, sizes.out_features)
    return out[..., :out_features].astype(dtype)

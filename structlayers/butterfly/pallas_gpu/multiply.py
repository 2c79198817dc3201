"""The function behind `butterfly_multiply` on Hopper GPUs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.operands import pad_features
from structlayers._core.precision import PrecisionLike
from structlayers.butterfly.factors import block_directions, twiddle_sizes
from structlayers.butterfly.pallas_gpu.apply import apply_factors
from structlayers.butterfly.permutations import apply_permutation


def butterfly_multiply(
    x: jax.Array,
    twiddle: jax.Array,
    permutation: Sequence[ArrayLike] | None,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies ``B_{K-1} P_{K-1} ... B_0 P_0``, each block in one or two passes over memory.

    float32 products are true float32 at any precision: they are not what the time goes to.

    Args:
        x: ``(*B, n)``, n at most N; bfloat16, float32 or complex64.
        twiddle: ``(S, K, M, N/2, 2, 2)`` or ``(S, K, N-1, 2, 2)``, float32 or complex64.
        permutation: One permutation of N per block, or None.
        increasing_stride: Direction of block 0.
        alternating: Whether the direction alternates.
        out_features: Number of outputs kept.
        precision: Has no effect.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    del precision
    sizes = twiddle_sizes(twiddle.shape)
    x = pad_features(x, sizes.size)
    directions = block_directions(sizes.blocks, increasing_stride, alternating)
    stacks = []
    for stack in range(sizes.stacks):
        values = x
        for k, increasing in enumerate(directions):
            if permutation is not None:
                values = apply_permutation(values, permutation[k])
            values = apply_factors(values, twiddle[stack, k], increasing)
        stacks.append(values)
    joined = stacks[0] if len(stacks) == 1 else jnp.concatenate(stacks, axis=-1)
    return joined[..., :out_features]

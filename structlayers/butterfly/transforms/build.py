"""From factors in numpy float64 to a `ButterflyOperator`: tying, stacking, casting, checks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from structlayers.butterfly.operator import ButterflyOperator

type Levels = Sequence[np.ndarray]
"""Factors of one block by level: the one of stride s is `(s, 2, 2)` (tied) or `(N/2, 2, 2)`."""


def require_twiddle_dtype(dtype: DTypeLike, *, complex_values: bool) -> np.dtype:
    """Returns `dtype` as a numpy dtype that can hold the factors.

    Raises:
        ValueError: not floating point, real where the factors are complex, or 64 bits wide while
            JAX's 64-bit mode is off.
    """
    wanted = np.dtype(dtype)
    if not jnp.issubdtype(wanted, jnp.inexact):
        raise ValueError(f"dtype must be floating point or complex, got {wanted.name}")
    if complex_values and not jnp.issubdtype(wanted, jnp.complexfloating):
        raise ValueError(f"dtype must be complex64 or complex128 for complex factors, got {wanted}")
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            f"dtype {wanted.name} needs JAX's 64-bit mode (jax_enable_x64), which is off"
        )
    return wanted


def make_operator(
    blocks: Sequence[Levels],
    *,
    dtype: np.dtype,
    tied: bool = False,
    permutation: np.ndarray | None = None,
    output_permutation: np.ndarray | None = None,
    increasing_stride: bool = True,
    alternating: bool = True,
    in_features: int | None = None,
    out_features: int | None = None,
    real_part: bool = False,
) -> ButterflyOperator:
    """Stacks the blocks' factors into one twiddle and wraps it.

    Args:
        blocks: the K blocks in order of application, each with M levels.
        dtype: of the twiddle.
        tied: keep the tied form `(1, K, N-1, 2, 2)`, else repeat to `(1, K, M, N/2, 2, 2)`.
        permutation: input order of every block, or None.
        output_permutation: order of the result, or None.
        increasing_stride: direction of the first block.
        alternating: whether the later blocks alternate in direction.
        in_features: width of the input, N by default.
        out_features: width of the result, N by default.
        real_part: whether the transform is the real part of the product.
    """
    n = 2 ** len(blocks[0])
    if tied:
        rows = [np.concatenate([np.zeros((0, 2, 2)), *levels]) for levels in blocks]
        twiddle = np.stack(rows)[None]
    else:
        empty = np.zeros((0, n // 2, 2, 2))
        rows = [
            np.stack([np.tile(t, (n // 2 // t.shape[0], 1, 1)) for t in levels])
            if levels
            else empty
            for levels in blocks
        ]
        twiddle = np.stack(rows)[None]
    return ButterflyOperator(
        twiddle=jnp.asarray(twiddle.astype(dtype)),
        permutation=None if permutation is None else permutation.astype(np.int32),
        output_permutation=(
            None if output_permutation is None else output_permutation.astype(np.int32)
        ),
        increasing_stride=increasing_stride,
        alternating=alternating,
        in_features=n if in_features is None else in_features,
        out_features=n if out_features is None else out_features,
        real_part=real_part,
    )


def scalar_operator(
    value: complex | float | np.number, *, dtype: np.dtype, tied: bool, real_part: bool = False
) -> ButterflyOperator:
    """The 1 x 1 matrix [value]. Size 1 has no factor to hold it, so it is the corner of size 2."""
    corner = np.zeros((1, 2, 2), np.result_type(np.float64, value))
    corner[0, 0, 0] = value
    return make_operator(
        [[corner]], dtype=dtype, tied=tied, in_features=1, out_features=1, real_part=real_part
    )


def transpose_levels(levels: Levels) -> list[np.ndarray]:
    """Factors of the transpose, still by level; they multiply in the other direction."""
    return [level.swapaxes(-1, -2) for level in levels]

"""Portable butterfly products: consecutive factors merged into radix-R blocks, one einsum each.

Merging multiplies entries only, ``O(N R)`` for each group and independent of the batch; after it
the data are read and written once a group instead of once a factor. Few rows on a CPU do not pay
for it and go factor by factor.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.dispatch import current_platform
from structlayers._core.operands import pad_features
from structlayers._core.precision import (
    PrecisionLike,
    accumulation_dtype,
    canonicalize_precision,
)
from structlayers.butterfly.factors import (
    TwiddleShape,
    block_directions,
    merge_levels,
    twiddle_sizes,
)
from structlayers.butterfly.permutations import apply_permutation

# Largest merged group, in levels. CPU: measured, radix 8 to 16 is best or within 10 % of it from
# N = 256 to 16384 at batch 1 and 256, forward and backward, real and complex, but for float32
# N = 1024 at batch 256, where 32 x 32 gains a third. GPU: two groups up to N = 16384 (radix 16
# against 8 at N = 256: 0.08 and 0.11 ms); TPU: the width of its matrix unit. Neither is measured
# at large N.
_GROUP_LEVELS = {"cpu": 4, "gpu": 7, "tpu": 7}

# Merged groups (merging included) against level by level on a CPU, microseconds for 1, 4, 8 rows;
# untied, one block, one thread of a busy 2-core machine, jax 0.12.0.1; least of one to four runs
# that differ by up to 2 times. jax 0.11.2 agrees (forward, N = 1024, 16384, 1 and 4 rows).
#
#                      forward                            forward + backward
#      N    groups level  groups level  groups level   groups level  groups level  groups level
#   float32
#       64     .72  .23     2.2   .82     1.7   1.7      3.8   2.2      16   4.4      16   7.2
#      256     4.3  1.2     9.6   4.9     8.9   9.7       33    14      62    24      62    69
#     1024      21  6.7      43    27      33    54      210   113     416   188     447   290
#     4096     219    71     323   138     258   301    1227   483    1905   807    1926  1482
#    16384     574   174    1063   669     799  1896    5169  2522   10214  4163   11252  8145
#   complex64
#       64     4.2   .48     5.0   1.8     7.1   3.6       13   5.0      20   8.4      22    15
#     1024      89    13     107    51     133   100      293   182                   522   565
#     4096     465    61     560   243     710   488     1685   725                  2590  2745
#    16384    1947   287    2408  1162    3314  2324
#
# Tied groups take less to merge; float32 forward, 1 and 4 rows: N = 256: 2.1 1.3, 5.7 5.0;
# 1024: 5.5 6.9, 17 27.
_BY_LEVEL_UP_TO_ROWS = 4
_TIED_BY_LEVEL_UP_TO = 256


def goes_by_level(rows: int, sizes: TwiddleShape, platform: str) -> bool:
    """Whether so few rows go through the factors one by one, without merging."""
    if platform != "cpu" or rows > _BY_LEVEL_UP_TO_ROWS:
        return False
    return not sizes.tied or sizes.size <= _TIED_BY_LEVEL_UP_TO


def group_sizes(levels: int, platform: str) -> tuple[int, ...]:
    """How many consecutive levels each merged group takes: as few groups as allowed, balanced."""
    largest = _GROUP_LEVELS.get(platform, 4)
    groups = -(-levels // largest)
    return tuple((levels + g) // groups for g in reversed(range(groups)))


def _apply_level(x: jax.Array, weights: jax.Array) -> jax.Array:
    """`apply_block` of radix 2, without a matrix product."""
    stacks, _, stride, _, _ = weights.shape
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // (2 * stride), 2, stride)  # *B, S or 1, P, j, k
    first, second = parts[..., 0, :], parts[..., 1, :]
    entries = weights.transpose(3, 4, 0, 1, 2).astype(x.dtype)  # i j S P k
    entries = entries.reshape(2, 2, *(1,) * (x.ndim - 2), *entries.shape[2:])
    rows = [entry[0] * first + entry[1] * second for entry in entries]
    # stacking ends the fusion: a fused chain of levels would compute every value log N times over
    return jnp.stack(rows, axis=-2).reshape(*x.shape[:-2], stacks, x.shape[-1])


def apply_block(x: jax.Array, weights: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """``out[s, p, i, k] = sum_j W[s, p, k, i, j] x[s, p, j, k]`` as one batched matrix product.

    Half-precision operands are multiplied as they are; XLA sums their products in float32 and
    rounds once, in both directions.

    Args:
        x: ``(*B, S, N)``, or ``(*B, 1, N)`` for one input to all stacks.
        weights: ``(S, P, s, R, R)``, ``P`` 1 when tied.
        precision: Of the products.

    Returns:
        Array ``(*B, S, N)`` of the dtype of ``x``.
    """
    stacks, p, stride, radix, _ = weights.shape
    lead, given, size = x.shape[:-2], x.shape[-2], x.shape[-1]
    parts = x.reshape(*lead, given, size // (radix * stride), radix, stride)
    weights = weights.astype(x.dtype)
    shared = "" if given == 1 < stacks else "z"
    if shared == "":
        parts = parts[..., 0, :, :, :]
    if p == 1 < parts.shape[-3]:
        weights, equation = weights[:, 0], f"...{shared}pjk,zkij->...zpik"
    else:
        equation = f"...{shared}pjk,zpkij->...zpik"
    # no preferred_element_type: it would make the dots of the backward pass mixed, hence float32
    out = jnp.einsum(equation, parts, weights, precision=precision)
    return out.reshape(*lead, stacks, size)


def _pad(x: jax.Array, size: int) -> jax.Array:
    """Zero-pads the last axis and adds a stack axis: ``(*B, n)`` to ``(*B, 1, size)``."""
    return pad_features(x, size)[..., None, :]


def _join_stacks(x: jax.Array, sizes: tuple[int, int], out_features: int | None) -> jax.Array:
    stacks, size = sizes
    x = jnp.broadcast_to(x, (*x.shape[:-2], stacks, size))
    return x.reshape(*x.shape[:-2], stacks * size)[..., :out_features]


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
    """Applies ``B_{K-1} P_{K-1} ... B_0 P_0`` with a few merged groups per block, or by level.

    Args:
        x: ``(*B, n)``, n at most N.
        twiddle: ``(S, K, M, N/2, 2, 2)`` or ``(S, K, N-1, 2, 2)``.
        permutation: One permutation of N per block, or None.
        increasing_stride: Direction of block 0.
        alternating: Whether the direction alternates.
        out_features: Number of outputs kept.
        precision: Of the matrix products; None is the highest.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    sizes, platform = twiddle_sizes(twiddle.shape), current_platform()
    by_level = goes_by_level(math.prod(x.shape[:-1]), sizes, platform)
    # level by level half-precision values would be rounded log N times
    values = x.astype(accumulation_dtype(x.dtype)) if by_level else x
    out = _multiply_grouped(
        values,
        twiddle,
        permutation,
        (1,) * sizes.levels if by_level else group_sizes(sizes.levels, platform),
        sizes,
        block_directions(sizes.blocks, increasing_stride, alternating),
        out_features,
        _apply_level if by_level else _block_product(precision),
    )
    return out.astype(x.dtype)


def _block_product(precision: PrecisionLike) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return functools.partial(apply_block, precision=canonicalize_precision(precision))


def _multiply_grouped(
    x: jax.Array,
    twiddle: jax.Array,
    permutation: Sequence[ArrayLike] | None,
    groups: tuple[int, ...],
    sizes: TwiddleShape,
    directions: tuple[bool, ...],
    out_features: int | None,
    apply: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Applies every block with its levels merged into `groups`, each by `apply`."""
    stops = [sum(groups[: g + 1]) for g in range(len(groups))]
    spans = list(zip([0, *stops], stops, strict=False))
    x = _pad(x, sizes.size)
    for k, increasing in enumerate(directions):
        if permutation is not None:
            x = apply_permutation(x, permutation[k])
        for start, stop in spans if increasing else reversed(spans):
            x = apply(x, merge_levels(twiddle, k, start, stop, increasing))
    return _join_stacks(x, (sizes.stacks, sizes.size), out_features)


def butterfly_multiply_dense(
    x: jax.Array,
    twiddle: jax.Array,
    permutation: Sequence[ArrayLike] | None,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies the materialised matrix of every block.

    Arguments and result as in `butterfly_multiply`. Blocks are applied in turn, or multiplied
    together first when the batch has more rows than the matrix.
    """
    from structlayers.butterfly.ops.dense import butterfly_to_dense

    sizes = twiddle_sizes(twiddle.shape)
    if sizes.blocks > 1 and x.size // max(x.shape[-1], 1) > sizes.size:
        dense = butterfly_to_dense(
            twiddle,
            increasing_stride=increasing_stride,
            alternating=alternating,
            permutation=None
            if permutation is None
            else jnp.stack([jnp.asarray(p) for p in permutation]),
            precision=precision,
        )
        weights = dense.reshape(sizes.stacks, 1, 1, sizes.size, sizes.size)
        out = apply_block(_pad(x, sizes.size), weights, canonicalize_precision(precision))
        return _join_stacks(out, (sizes.stacks, sizes.size), out_features)
    return _multiply_grouped(
        x,
        twiddle,
        permutation,
        (sizes.levels,) if sizes.levels else (),
        sizes,
        block_directions(sizes.blocks, increasing_stride, alternating),
        out_features,
        _block_product(precision),
    )


def block_butterfly_multiply(
    x: jax.Array,
    blocks: Sequence[jax.Array],
    *,
    increasing_stride: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """Applies factors in block form, one batched matrix product each.

    Args:
        x: ``(*B, n)``, n at most N.
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride.
        increasing_stride: Whether the first array is applied first.
        out_features: Number of outputs kept.
        precision: Of the matrix products; None is the highest.

    Returns:
        Array ``(*B, out_features)`` of the dtype of ``x``.
    """
    precision = canonicalize_precision(precision)
    stacks, _, stride, radix, _ = blocks[-1].shape
    size = stride * radix
    x = _pad(x, size)
    for weights in blocks if increasing_stride else reversed(blocks):
        x = apply_block(x, weights, precision)
    return _join_stacks(x, (stacks, size), out_features)

"""`butterfly_multiply`: the product of a butterfly with a batch of vectors."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.partitioning import batch_sharding_is_known
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.factors import twiddle_sizes
from structlayers.butterfly.ops.arguments import (
    check_input,
    check_out_features,
    check_permutations,
    operand_dtypes,
)

# Break-even between "dense" (the matrix is made in every call) and "xla", in milliseconds, forward
# and forward + backward; jax 0.11.2, untied, one block, precision highest.
#
#                          2 cores of the H200's host CPU                   H200
#              batch 256 float32    batch 256 complex64   batch 1 float32   batch 16384 float32
#      N       dense       xla      dense       xla       dense    xla      dense       xla
#      16    .025 .040  .026 .083  .044 .077  .044 .093  .009 .017 .011 .017
#      32    .040 .061  .046 .179  .084 .163  .081 .170
#      64    .069 .134  .051 .269  .261 .442  .170 .394  .031 .055 .013 .032  .047 .076  .040 .091
#     128    .193 .432  .102 .373  .683 1.77  .405 .957                       .051 .056  .043 .086
#     256    .586 .992  .210 .580  3.08 5.44  1.09 2.42  .235 .547 .023 .096  .061 .145  .085 .181
#    1024    4.96 9.08  .816 3.11  30.1 65.4  4.77 12.0  2.10 6.61 .062 .426
#
# H200 times under 0.1 ms are mostly launches. GPU at N > 256 is not measured: the limit there comes
# from the bytes and operations of two passes against one product.
#
# TPU: compiled estimates (no TPU took part) in milliseconds, forward, of the whole program with
# what is made of the twiddle; batch 16384, untied, jax 0.12.0, libtpu 0.0.52.
#
#                        v5e bfloat16, float32                        v6e bfloat16, float32
#      N       dense         xla       pallas_tpu          dense         xla       pallas_tpu
#     256    .091 .123    .211 .165    .042 .060         .049 .058    .121 .098    .030 .040
#     512    .173 .369    .403 .316    .070 .105         .090 .134    .228 .182    .037 .057
#    1024    .385 1.41    .776 .854    .111 .185         .179 .465    .433 .500    .063 .098
#
# At N = 128 all three are one product with a 128 x 128 matrix. Where the kernel cannot serve, the
# limits are those of two passes against one product.
_TPU_KERNEL_ABOVE = 128
_DENSE_UP_TO = {"cpu": 32, "gpu": 256, "tpu": 256}
_DENSE_UP_TO_HALF_PRECISION = {"gpu": 512, "tpu": 512}


def _prefer(
    x: Any, twiddle: Any, permutation: Any, *, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    """The platform's kernel where it pays, else dense up to the break-even size, groups above."""
    del permutation, static
    size = twiddle_sizes(twiddle.shape).size
    limit = _DENSE_UP_TO.get(platform, 32)
    if x.dtype.itemsize < 4:
        limit = _DENSE_UP_TO_HALF_PRECISION.get(platform, limit)
    if platform == "cpu" and x.dtype.kind == "f" and math.prod(x.shape[:-1]) >= 64:
        limit = 2 * limit
    order = []
    if platform == "tpu" and size > _TPU_KERNEL_ABOVE and batch_sharding_is_known():
        why = f"N = {size} is above {_TPU_KERNEL_ABOVE}, the break-even size by compiled estimates"
        order.append(("pallas_tpu", why))
    if size <= limit:
        order.append(("dense", f"N = {size} is at most {limit}, the break-even size on {platform}"))
    else:
        order.append(("xla", f"N = {size} is above {limit}, the break-even size on {platform}"))
    return tuple(order)


def _check_pallas_tpu(x: Any, twiddle: Any, permutation: Any, *, platform: str, **_: Any) -> None:
    from structlayers.butterfly.pallas_tpu.support import check_butterfly

    del permutation
    check_butterfly(x, twiddle, platform=platform)


dispatcher = Dispatcher(
    "butterfly_multiply",
    (
        Implementation("xla", "structlayers.butterfly.xla:butterfly_multiply"),
        Implementation("dense", "structlayers.butterfly.xla:butterfly_multiply_dense"),
        Implementation("reference", "structlayers.butterfly.reference:butterfly_multiply"),
        Implementation(
            "pallas_tpu",
            "structlayers.butterfly.pallas_tpu.multiply:butterfly_multiply",
            _check_pallas_tpu,
        ),
    ),
    _prefer,
)


def butterfly_multiply(
    x: ArrayLike,
    twiddle: ArrayLike,
    *,
    increasing_stride: bool = True,
    alternating: bool = True,
    permutation: ArrayLike | None = None,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by butterflies: ``y = B_{K-1} P_{K-1} ... B_0 P_0 x``.

    ``B = F_{M-1} ... F_0`` (increasing stride) or ``F_0 ... F_{M-1}`` (decreasing). The factor of
    level l mixes indices ``s = 2**l`` apart: with ``n = p*2s + j*s + k``,
    ``F x [p, i, k] = sum_j t[p*s + k, i, j] x[p, j, k]``, and ``t[k, i, j]`` when tied.
    ``3 N log2 N`` operations per vector and block.

    Args:
        x: Real or complex array ``(*B, n)`` with ``1 <= n <= N``; padded with zeros to N.
        twiddle: ``(S, K, M, N/2, 2, 2)``, or tied ``(S, K, N-1, 2, 2)``; stored by level whatever
            the direction. Each of the S stacks sees the same input.
        increasing_stride: Whether block 0 multiplies strides 1, 2, ..., N/2 in that order, or
            backwards.
        alternating: Whether the direction alternates from block to block: ``B^T B`` or ``B B^T``
            forms. False: all blocks like block 0.
        permutation: Integers ``(N,)`` or ``(K, N)``: before block k the input is
            ``x[..., permutation[k]]``. None: no permutation.
        out_features: Number of outputs kept, at most ``S * N``. None: all.
        precision: Of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (merged groups of factors), "dense" (the matrix of every block),
            "pallas_tpu" (one pass over memory for each block, from N = 128), "reference" (factor
            by factor), or None to choose by platform and size.

    Returns:
        Array ``(*B, out_features)``. Half-precision ``x`` with a real twiddle: the dtype of
        ``x``, sums in float32. Otherwise the wider of both dtypes, complex if either is.

    Raises:
        TypeError: If ``x`` or the twiddle hold integers, or the permutation does not.
        ValueError: If a shape does not fit, or a known permutation is none.

    Example:
        >>> hadamard = jnp.array([[1.0, 1.0], [1.0, -1.0]])
        >>> twiddle = jnp.broadcast_to(hadamard.reshape(1, 1, 1, 1, 2, 2), (1, 1, 2, 2, 2, 2))
        >>> butterfly_multiply(jnp.array([1.0, 2.0, 3.0, 4.0]), twiddle).tolist()
        [10.0, -2.0, -4.0, 0.0]

    References:
        Dao, Gu, Eichhorn, Rudra, Ré, "Learning Fast Algorithms for Linear Transforms Using
        Butterfly Factorizations", 2019, arXiv:1903.05895, section 3.2 and definition 1.
    """
    twiddle = jnp.asarray(twiddle)
    require_inexact("twiddle", twiddle)
    sizes = twiddle_sizes(twiddle.shape)
    x = check_input(x, sizes.size)
    permutations: Sequence[ArrayLike] | None = check_permutations(
        permutation, sizes.blocks, sizes.size
    )
    data_dtype, weight_dtype = operand_dtypes(x.dtype, twiddle.dtype)
    return dispatcher(
        x.astype(data_dtype),
        twiddle.astype(weight_dtype),
        permutations,
        implementation=implementation,
        increasing_stride=increasing_stride,
        alternating=alternating,
        out_features=check_out_features(out_features, sizes.stacks * sizes.size),
        precision=canonicalize_precision(precision),
    )

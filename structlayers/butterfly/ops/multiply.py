"""`butterfly_multiply`: the product of a butterfly with a batch of vectors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_input, check_out_features, operand_dtypes
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.factors import twiddle_sizes
from structlayers.butterfly.ops.arguments import check_permutations
from structlayers.butterfly.ops.choice import check_pallas_gpu, check_pallas_tpu, prefer

dispatcher = Dispatcher(
    "butterfly_multiply",
    (
        Implementation("xla", "structlayers.butterfly.xla:butterfly_multiply"),
        Implementation("dense", "structlayers.butterfly.xla:butterfly_multiply_dense"),
        Implementation("reference", "structlayers.butterfly.reference:butterfly_multiply"),
        Implementation(
            "pallas_gpu",
            "structlayers.butterfly.pallas_gpu.multiply:butterfly_multiply",
            check_pallas_gpu,
        ),
        Implementation(
            "pallas_tpu",
            "structlayers.butterfly.pallas_tpu.multiply:butterfly_multiply",
            check_pallas_tpu,
        ),
    ),
    prefer,
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
        implementation: "xla" (merged groups of factors; up to 4 rows on a CPU, of which those of
            `jax.vmap` do not count, factor by factor), "dense" (the matrix of every block),
            "pallas_gpu" (one or two passes over memory for each block, on Hopper), "pallas_tpu"
            (one pass, from N = 128), "reference" (factor by factor), or None to choose by
            platform, size, batch and dtype.

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

"""`block_butterfly_multiply`: the product with factors held as radix-R blocks."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_input, check_out_features, operand_dtypes
from structlayers._core.partitioning import batch_sharding_is_known
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.ops.arguments import check_blocks


def _check_pallas_tpu(x: Any, blocks: Any, *, platform: str, **_: Any) -> None:
    from structlayers.butterfly.pallas_tpu.support import check_blocks

    check_blocks(x, blocks, platform=platform)


def _prefer(x: Any, blocks: Any, *, platform: str, **_: Any) -> tuple[tuple[str, str], ...]:
    """On TPU one pass over memory, where its kernel serves."""
    del x
    if platform != "tpu" or not batch_sharding_is_known():
        return ()
    return (("pallas_tpu", f"one pass over memory instead of {len(blocks)}"),)


dispatcher = Dispatcher(
    "block_butterfly_multiply",
    (
        Implementation("xla", "structlayers.butterfly.xla:block_butterfly_multiply"),
        Implementation("reference", "structlayers.butterfly.reference:block_butterfly_multiply"),
        Implementation(
            "pallas_tpu",
            "structlayers.butterfly.pallas_tpu.multiply:block_butterfly_multiply",
            _check_pallas_tpu,
        ),
    ),
    _prefer,
)


def block_butterfly_multiply(
    x: ArrayLike,
    blocks: Sequence[ArrayLike],
    *,
    increasing_stride: bool = True,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by factors of any radix, given as blocks.

    The factor ``W`` of stride s and radix R mixes R indices s apart: with ``n = p*R*s + j*s + k``,
    ``out[p, i, k] = sum_j W[p, k, i, j] x[p, j, k]``. The strides multiply up,
    ``s_{g+1} = s_g R_g``, and ``N`` is the product of all radices, which need neither be equal
    nor powers of two (768 = 3 * 256). ``2 N sum(R)`` operations per vector.

    Args:
        x: Real or complex array ``(*B, n)`` with ``1 <= n <= N``; padded with zeros to N.
        blocks: Arrays ``(S, P, s, R, R)`` by increasing stride, ``P = N/(R s)``, or ``P = 1``
            where all p share their values.
        increasing_stride: Whether the factor of stride 1 is applied first, or last.
        out_features: Number of outputs kept, at most ``S * N``. None: all.
        precision: Of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (one batched matrix product per factor), "pallas_tpu" (one pass over
            memory, strides 1 and multiples of 128 after merging), "reference", or None.

    Returns:
        Array ``(*B, out_features)``, of the dtype that `butterfly_multiply` would give.

    Raises:
        TypeError: If ``x`` or a block holds integers.
        ValueError: If a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> cycle = jnp.roll(jnp.eye(3), 1, axis=0).reshape(1, 1, 1, 3, 3)
        >>> swap = jnp.tile(jnp.eye(2)[::-1].reshape(1, 1, 1, 2, 2), (1, 1, 3, 1, 1))
        >>> block_butterfly_multiply(jnp.arange(6.0), (cycle, swap)).tolist()
        [5.0, 3.0, 4.0, 2.0, 0.0, 1.0]

    References:
        Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate Training",
        2022, arXiv:2204.00595, section 3; Gonon, Zheng, Carrivain, Le, "Fast Inference with
        Kronecker-Sparse Matrices", 2025, arXiv:2405.15013 (factors of any radix and stride).
    """
    arrays, stacks, size = check_blocks(blocks)
    x = check_input(x, size)
    weight_dtype = arrays[0].dtype
    for weights in arrays[1:]:
        weight_dtype = operand_dtypes(weight_dtype, weights.dtype)[1]
    data_dtype, weight_dtype = operand_dtypes(x.dtype, weight_dtype)
    return dispatcher(
        x.astype(data_dtype),
        tuple(weights.astype(weight_dtype) for weights in arrays),
        implementation=implementation,
        increasing_stride=increasing_stride,
        out_features=check_out_features(out_features, stacks * size),
        precision=canonicalize_precision(precision),
    )

"""`monarch_multiply`: the product of a Monarch matrix with a batch of vectors."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import operand_dtypes
from structlayers._core.partitioning import batch_sharding_is_known
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.monarch.dense import check_features
from structlayers.butterfly.monarch.shapes import monarch_sizes
from structlayers.butterfly.ops.choice import prefer_one_pass

# Floating-point operations in the time of one byte of traffic: (half precision, float32 at the
# highest precision). H200: 790 and 52 TFLOP/s against 4.3 TB/s. TPU v5e: 197 and 33 against 0.8.
_OPERATIONS_PER_BYTE = {"gpu": (184, 12), "tpu": (240, 40)}

# On a CPU, small matrices win as dense ones once the batch has paid for making them. Measured on
# 2 cores of an Intel Xeon, jax 0.12, float32: up to 128 x 128, from 64 rows there, 16 at 64 x 64.
_CPU_DENSE_ENTRIES = 128 * 128
_CPU_ENTRIES_PER_ROW = 256

# TPU: rows from which one pass is the fastest, by compiled estimates (no TPU took part): packing
# the blocks costs 20 to 90 us whatever the batch, a row saves 10 ns and more. kernels.md has the
# estimates.
_TPU_KERNEL_FROM_ROWS = 2048


def _prefer(
    x: Any, blocks1: Any, blocks2: Any, *, platform: str, out_features: int, **static: Any
) -> tuple[tuple[str, str], ...]:
    """The platform's kernel from its break-even on, else dense where that beats two passes.

    The kernel of Hopper is that of butterflies, from the same rows.
    """
    del static
    rows = math.prod(x.shape[:-1])
    order = _dense_or_xla(x, blocks1, blocks2, platform=platform, out_features=out_features)
    if platform == "tpu" and rows >= _TPU_KERNEL_FROM_ROWS and batch_sharding_is_known():
        why = f"{rows} rows reach its break-even by compiled estimates, {_TPU_KERNEL_FROM_ROWS}"
        return (("pallas_tpu", why), order)
    size = monarch_sizes(blocks1, blocks2).middle
    kernel = prefer_one_pass(x, size, platform=platform) if x.dtype.itemsize == 2 else ()
    return (*kernel, order)


def _dense_or_xla(
    x: Any, blocks1: Any, blocks2: Any, *, platform: str, out_features: int
) -> tuple[str, str]:
    """Dense where making and multiplying the whole matrix beats two passes over the data."""
    sizes = monarch_sizes(blocks1, blocks2)
    rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
    entries = columns * out_features
    if platform not in _OPERATIONS_PER_BYTE:
        if entries <= _CPU_DENSE_ENTRIES and entries <= _CPU_ENTRIES_PER_ROW * rows:
            return ("dense", f"{entries} entries are few for {rows} rows on {platform}")
        return ("xla", f"{entries} entries are many for {rows} rows on {platform}")
    width = np.dtype(x.dtype).itemsize
    per_byte = _OPERATIONS_PER_BYTE[platform][0 if width == 2 else 1]
    per_entry = 8 if jnp.issubdtype(x.dtype, jnp.complexfloating) else 2
    # seconds in units of one byte: traffic or arithmetic, whichever is longer
    ends = columns + out_features
    dense = 2 * width * entries + max(width * rows * ends, per_entry * rows * entries / per_byte)
    weights = blocks1.size + blocks2.size
    two_passes = max(
        width * (weights + rows * (ends + 2 * sizes.middle)),
        per_entry * rows * weights / per_byte,
    )
    name = "dense" if dense <= two_passes else "xla"
    why = f"dense is estimated at {dense / two_passes:.2f} of the time of two passes on {platform}"
    return (name, why)


def _check_pallas_gpu(x: Any, blocks1: Any, blocks2: Any, *, platform: str, **_: Any) -> None:
    from structlayers.butterfly.pallas_gpu.support import check_monarch

    check_monarch(x, blocks1, blocks2, platform=platform)


def _check_pallas_tpu(x: Any, blocks1: Any, blocks2: Any, *, platform: str, **_: Any) -> None:
    from structlayers.butterfly.pallas_tpu.support import check_monarch

    check_monarch(x, blocks1, blocks2, platform=platform)


dispatcher = Dispatcher(
    "monarch_multiply",
    (
        Implementation("xla", "structlayers.butterfly.monarch.xla:monarch_multiply"),
        Implementation("dense", "structlayers.butterfly.monarch.xla:monarch_multiply_dense"),
        Implementation("reference", "structlayers.butterfly.monarch.reference:monarch_multiply"),
        Implementation(
            "pallas_gpu",
            "structlayers.butterfly.pallas_gpu.monarch:monarch_multiply",
            _check_pallas_gpu,
        ),
        Implementation(
            "pallas_tpu",
            "structlayers.butterfly.pallas_tpu.multiply:monarch_multiply",
            _check_pallas_tpu,
        ),
    ),
    _prefer,
)


def monarch_multiply(
    x: ArrayLike,
    blocks1: ArrayLike,
    blocks2: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by a Monarch matrix, `y = P^T L P R x`.

    R is block diagonal with the k blocks of `blocks1`, L with the l blocks of `blocks2`, and P
    transposes: with `x` padded to `(k, p)`, `h[k, q] = sum_p blocks1[k, q, p] x[k, p]`, h read as
    `(r, l)`, `y[s, l] = sum_r blocks2[l, s, r] h[r, l]`, flattened. `k q p + l s r` multiplications
    per vector: `2 N^1.5` for N inputs and outputs and sqrt(N) blocks.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= k p`; padded with zeros.
        blocks1: `(k, q, p)`.
        blocks2: `(l, s, r)`, `k q = l r`.
        out_features: number of outputs kept, at most `s l`; None is all.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (two batched products), "dense" (the whole matrix), "reference"
            (plain sums), "pallas_gpu" (one pass on Hopper, bfloat16, blocks `(k, p, p)` and
            `(p, k, k)` of sizes 16 and 32, N = 512 or 1024), "pallas_tpu" (one pass; blocks
            `(k, p, p)` and `(p, k, k)` with p a multiple of 128, at most 512, and k at most 16; or
            real blocks that pack into G groups, 2 to 32 and a power of two, G dividing k, q, l and
            r, with `k p / G`, `k q / G` and `l s / G` multiples of 128), or None to choose by
            platform and shapes.

    Returns:
        `(*B, out_features)`. Half-precision `x` with real blocks: the dtype of `x`, sums in
        float32. Otherwise the widest of the dtypes, complex if any is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> swap = jnp.array([[[0.0, 1.0], [1.0, 0.0]]] * 2)
        >>> monarch_multiply(jnp.array([1.0, 2.0, 3.0, 4.0]), swap, swap).tolist()
        [4.0, 3.0, 2.0, 1.0]

    References:
        Dao, Chen, Sohoni, Desai, Poli, Grogan, Liu, Rao, Rudra, Ré, "Monarch: expressive
        structured matrices for efficient and accurate training", 2022, arXiv:2204.00595,
        section 3.1.
    """
    blocks1, blocks2 = jnp.asarray(blocks1), jnp.asarray(blocks2)
    sizes = monarch_sizes(blocks1, blocks2)
    x = jnp.asarray(x)
    require_inexact("x", x)
    if x.ndim < 1 or not 1 <= x.shape[-1] <= sizes.in_features:
        raise ValueError(
            f"x must have between 1 and k p = {sizes.in_features} features on its last axis, "
            f"got shape {x.shape}"
        )
    weights = np.promote_types(blocks1.dtype, blocks2.dtype)
    data_dtype, weight_dtype = operand_dtypes(x.dtype, weights)
    return dispatcher(
        x.astype(data_dtype),
        blocks1.astype(weight_dtype),
        blocks2.astype(weight_dtype),
        implementation=implementation,
        out_features=check_features("out_features", out_features, sizes.out_features, "s l"),
        precision=canonicalize_precision(precision),
    )

"""`gaunt_tensor_product`: the product of two signals on the sphere, in their coefficients."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.partitioning import batch_sharding_is_known
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.grids import GridLike, SphericalGrid
from structlayers.equivariant.ops.arguments import (
    check_grid,
    check_lmax,
)
from structlayers.equivariant.ops.few_rows import table_pays, terms_pay
from structlayers.equivariant.ops.narrow import dispatch
from structlayers.equivariant.ops.weighting import bind_weights
from structlayers.equivariant.paths import FEW_TERMS, FEW_TERMS_ON_CPU
from structlayers.equivariant.precision import canonicalize_table_precision
from structlayers.equivariant.signals import lmax_of, pack, product_parity, unpack, widen
from structlayers.equivariant.tables import count_nonzero

# Entries of the table of all coefficients, up to which it is made.
_DENSE_TABLE = 2**24

# Non-zero coefficients that may be summed; up to FEW_TERMS_ON_CPU that is the fastest on a CPU.
# Milliseconds of the forward pass / of both gradients, float32, two shared cores, the least of 12,
# grids of the fewest points, all coefficients listed by the program:
#
#   rows   L1 L2 L3     xla          antipodal    separable    clebsch_gordan  sparse
#   10000  1  1  1      0.16/0.30    0.09/0.18    0.28/0.53    0.08/0.32       0.05/0.03
#   10000  1  1  2      0.20/0.25    0.19/0.39    0.55/0.89    0.12/0.33       0.05/0.06
#   10000  2  1  2      0.22/0.35    0.31/0.56    0.59/1.03    0.17/0.43       0.11/0.21
#   10000  2  2  2      0.29/0.45    0.41/0.61    0.77/1.44    0.26/0.89       0.20/0.36
#   10000  2  2  4      0.49/0.86    0.76/1.50    2.02/3.66    0.65/1.87       0.61/0.99
#   10000  3  3  3      0.52/0.95    1.00/1.57    2.07/3.96    0.96/1.45       1.09/2.84
#   10000  4  4  4      1.56/2.44    1.86/3.51    3.76/7.49    7.73/9.23
#   10000  4  4  8      1.97/3.41    2.47/5.41    4.87/10.7    10.9/11.0
#   10000  6  6  6      4.30/6.47    3.61/9.14    7.00/14.1    66.3/63.8
#   4096   8  8  8      4.36/6.99    3.31/6.69    5.91/13.0
#   2048   12 12 12     8.16/13.7    5.98/11.3    6.88/16.5
#   1024   16 16 16     8.26/17.7    6.10/9.05    6.40/13.3
#
# Runs differ by up to two times as other work does; in eight of them half of the points took less
# for values and gradients together at T = 36 always, at 24 to 33 in some.
#
# On one H200 10 x 10 -> 20 (TF32, 10,000 rows) takes 94 us with one table each way; on
# Gauss-Legendre points it took 124, and 158 by the split, which is not chosen there; in true
# float32, not timed, half of the products should save more than that costs (xla/gpu.md).
#
# On a GPU of 1 x 1 -> 2, with 21, nothing but factors and result is in memory: 1.8 us for 10,000
# rows and 1.5 for 128, by the kernel 3.0 and 2.1 (one H200; xla/gpu.md).
_SPARSE = 2**18
_SMALL_TABLE = 2**13
_ANTIPODAL_PAYS = 36

# Rows from which the kernel of Hopper GPUs is taken, and up to which T, where it serves the
# precision. Microseconds on one H200 in TF32, L x L -> 2 L, of the kernel / one table each way by
# XLA / by terms:
#
#   rows    L = 1        2            3            4            5            6
#   1       1.8 1.8 1.3  2.2 2.0 1.1  2.8 3.0 1.1  3.2 4.1 1.1  3.6 6.5 1.2  7.0 4.9 1.3
#   128     2.0 5.4 1.4  2.2 5.9 1.4  3.3 7.7 1.5  4.0 7.8 2.5  5.9 7.3 3.8  9.2 7.9 5.8
#   1000                 4.9 5.4 2.7  6.7 7.5 4.3  6.1 8.1 9.8  8.4 11 19    10 15 34
#   10000   3.0 6.0 1.9  5.1 9.5 6.5  6.4 17 28    6.4 22 84    8.0 34 177   9.9 51 318
#
# L x L -> L up to L = 9, T = 27, in a signal filled up from one degree, is 1.3 to 3.1 times as fast
# by the kernel as by XLA at 10,000 rows; from 640,000 on it is 4 to 12 times, L = 2 to 8, in every
# word (pallas_gpu/kernels.md). Not timed: degrees unequal in another way; 3xTF32 and bfloat16 at
# fewer rows, taken from 10,000 on up to T = 24 because 3xTF32 took the kernel at most 3.4 times as
# long as TF32, and XLA at least 1.2 times; float32 signals in bf16, left to XLA.
_KERNEL_FROM_ROWS = ((20, 128), (24, 1000), (27, 10_000))
_KERNEL_FROM_ROWS_IN_OTHER_WORDS = ((24, 10_000),)

# Terms times rows up to which a GPU sums terms, where the kernel could serve and elsewhere; by the
# figures above and those of gradients, which are alike (xla/gpu.md has both).
# Under `jax.vmap` rows are those of one call, so without a leading axis they are not taken.
_TERMS_PAY = 2**20
_TERMS_PAY_WITHOUT_KERNEL = 1_600_000

# pallas_tpu/kernels.md has the figures.
TPU_KERNEL = ("pallas_tpu", "by compiled estimates faster than the grid in device memory")


def check_antipodal(*args: Any, grid: GridLike, **static: Any) -> None:
    """Refuses a grid without opposite points."""
    del args, static
    if isinstance(grid, SphericalGrid) and grid.opposites is None:
        raise NotImplementedError("the points of the grid do not come in opposite pairs")


def check_separable(*args: Any, grid: GridLike, **static: Any) -> None:
    """Refuses a grid that is no product of polar angles and azimuths."""
    del args, static
    if isinstance(grid, SphericalGrid):
        product = grid.cos_beta is not None
    else:
        product = grid not in ("design", "lebedev")
    if not product:
        raise NotImplementedError("the grid is no product of polar angles and azimuths")


def check_fourier(*args: Any, precision: Any, **static: Any) -> None:
    """Refuses precisions that are not XLA's own."""
    del args, static
    if not isinstance(precision, jax.lax.Precision):
        raise NotImplementedError(f"transforms on the torus are not made in {precision!r}")


def _sizes(x: Any, y: Any, lmax: int) -> tuple[int, int, int]:
    """Of the table of all coefficients."""
    return x.shape[-1], y.shape[-1], (lmax + 1) ** 2


def _count(x: Any, y: Any, lmax: int) -> int:
    return count_nonzero(lmax_of("x", x), lmax_of("y", y), lmax)


def _terms_pay(rows: int, x: Any, y: Any, lmax: int, most: int) -> bool:
    return terms_pay(rows, _sizes(x, y, lmax), functools.partial(_count, x, y, lmax), most)


def _check_dense(x: Any, y: Any, *, lmax: int, **static: Any) -> None:
    del static
    size = math.prod(_sizes(x, y, lmax))
    if size > _DENSE_TABLE:
        raise NotImplementedError(f"its table would have {size} entries, over {_DENSE_TABLE}")


def _check_sparse(x: Any, y: Any, *, lmax: int, **static: Any) -> None:
    del static
    if not _terms_pay(1, x, y, lmax, _SPARSE):
        degrees = lmax_of("x", x), lmax_of("y", y), lmax
        raise NotImplementedError(f"degrees {degrees} have more than {_SPARSE} coefficients")


def _check_pallas_gpu(*args: Any, **static: Any) -> None:
    from structlayers.equivariant.pallas_gpu.support import check

    check(*args, **static)


def _check_pallas_tpu(*args: Any, **static: Any) -> None:
    from structlayers.equivariant.pallas_tpu.support import check

    check(*args, **static)


def _prefer(
    x: Any, y: Any, *, lmax: int, precision: Any, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    """What was measured or estimated to be the fastest; the default order elsewhere."""
    del static
    if platform == "gpu":
        return _prefer_on_gpu(x, y, lmax, precision)
    if platform == "tpu" and batch_sharding_is_known():
        return (TPU_KERNEL,)
    if platform != "cpu":
        return ()
    return (*_antipodal(x, y, lmax), *_few_terms(x, y, lmax, FEW_TERMS_ON_CPU))


def _antipodal(x: Any, y: Any, lmax: int) -> tuple[tuple[str, str], ...]:
    if lmax_of("x", x) + lmax_of("y", y) + lmax < _ANTIPODAL_PAYS:
        return ()
    return (("antipodal", f"half of the points, faster from T = {_ANTIPODAL_PAYS} on"),)


def _few_terms(x: Any, y: Any, lmax: int, most: int) -> tuple[tuple[str, str], ...]:
    # larger tables have more coefficients, and are not made only to count them
    if math.prod(_sizes(x, y, lmax)) > _SMALL_TABLE or _count(x, y, lmax) > most:
        return ()
    return (("sparse", f"at most {most} coefficients: faster than any grid"),)


def _prefer_on_gpu(x: Any, y: Any, lmax: int, precision: Any) -> tuple[tuple[str, str], ...]:
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    rows, total = math.prod(lead), lmax_of("x", x) + lmax_of("y", y) + lmax
    limits = _KERNEL_FROM_ROWS if precision == "tf32" else _KERNEL_FROM_ROWS_IN_OTHER_WORDS
    enough = next((least for most, least in limits if total <= most), None)
    fits = precision != "bf16" or x.dtype == jnp.bfloat16
    kernel: tuple[tuple[str, str], ...] = ()
    if fits and enough is not None and rows >= enough:
        kernel = (("pallas_gpu", f"one kernel, faster from {enough} rows on"),)
    # halved products pay where they bound, not bytes: in true float32
    halved = _antipodal(x, y, lmax) if precision == jax.lax.Precision.HIGHEST else ()
    most = _TERMS_PAY if kernel else _TERMS_PAY_WITHOUT_KERNEL
    few = _few_rows(rows, x, y, lmax, most) if lead else ()
    return (*few, *_few_terms(x, y, lmax, FEW_TERMS), *kernel, *halved)


def _few_rows(rows: int, x: Any, y: Any, lmax: int, most: int) -> tuple[tuple[str, str], ...]:
    if table_pays(rows, _sizes(x, y, lmax)):
        return (("clebsch_gordan", "one row: its table is one loop"),)
    if not _terms_pay(rows, x, y, lmax, most):
        return ()
    return (("sparse", f"at most {most} terms in all rows: one launch"),)


# Every implementation is called with coefficients x and y of one rank and one dtype, float32 or
# float64, and the keywords lmax, grid and precision, as described in the reference.
dispatcher = Dispatcher(
    "gaunt_tensor_product",
    (
        Implementation("xla", "structlayers.equivariant.xla.transforms:gaunt_tensor_product"),
        Implementation(
            "antipodal",
            "structlayers.equivariant.xla.antipodal:gaunt_tensor_product",
            check_antipodal,
        ),
        Implementation(
            "separable",
            "structlayers.equivariant.xla.transforms:gaunt_tensor_product_separable",
            check_separable,
        ),
        Implementation(
            "fourier", "structlayers.equivariant.xla.fourier:gaunt_tensor_product", check_fourier
        ),
        Implementation(
            "clebsch_gordan",
            "structlayers.equivariant.xla.dense:gaunt_tensor_product",
            _check_dense,
        ),
        Implementation(
            "sparse", "structlayers.equivariant.xla.sparse:gaunt_tensor_product", _check_sparse
        ),
        Implementation("reference", "structlayers.equivariant.reference:gaunt_tensor_product"),
        Implementation(
            "pallas_gpu",
            "structlayers.equivariant.pallas_gpu.apply:gaunt_tensor_product",
            _check_pallas_gpu,
        ),
        Implementation(
            "pallas_tpu",
            "structlayers.equivariant.pallas_tpu.apply:gaunt_tensor_product",
            _check_pallas_tpu,
        ),
    ),
    _prefer,
)


def gaunt_tensor_product(
    x: Any,
    y: Any,
    *,
    lmax: int | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
    weighting: str = "channelwise",
    grid: GridLike = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Multiplies two signals on the sphere point by point, and projects on degrees 0 to L3.

    .. math:: z_{l_3 m_3} = w_3(l_3) \sum_{l_1 m_1 l_2 m_2} w_1(l_1) w_2(l_2)
        \left( \int Y_{l_1 m_1} Y_{l_2 m_2} Y_{l_3 m_3} \right) x_{l_1 m_1} y_{l_2 m_2}

    With real orthonormal harmonics, exact: the grid integrates all that occurs. Paths of an odd sum
    of degrees are zero, so `1 x 1 -> 1`, the cross product, is not among them. `4 L + 1` weights a
    channel for L1 = L2 = L and L3 = 2 L. O(L^4) multiplications on a grid, O(L^3) by "separable".

    Args:
        x: signal of degree L1, plain coefficients `(*B, (L1 + 1)^2)` at index `l^2 + l + m`, or an
            `e3nn_jax.IrrepsArray` such as `8x0e+8x1o+8x2e` with channels as the last of `*B`.
            float32, bfloat16, float16, or float64 under x64.
        y: signal of degree L2 of the same kind and dtype. Leading axes of x, y and weights
            broadcast against each other, channels of 1 against C included.
        lmax: L3; None is L1 + L2, all of the product.
        weights: of the degrees of x, of y and of the result, `(..., L1 + 1)`, `(..., L2 + 1)` and
            `(..., L3 + 1)`, any of them None. Leading axes say for what they differ: `(C, L + 1)`
            for channels, `(E, C, L + 1)` for edges, `w[species]` for species.
        weighting: what the axes of weights are. "channelwise": as above. "rank": R in front of
            them, `(R, ..., L + 1)`, a sum of R products each with weights of its own.
            "fully_connected": channels in and out before the degrees, `(..., C1, G, L1 + 1)`,
            `(..., C2, G, L2 + 1)` and `(..., G, C3, L3 + 1)`, for G products of mixed channels
            (None mixes none; x and y need an axis of channels); axes in front for edges and
            species as before.
        grid: "gauss_legendre", "equiangular", "design", "lebedev", of the smallest size that is
            exact, or a `SphericalGrid` exact to T = L1 + L2 + L3. None: the fewest points, of a
            Lebedev rule nearly always; for "separable" those of a Gauss-Legendre product. Kernels
            have a grid of their own.
        precision: None or "highest" (true float32), "tf32", "3xtf32", "bf16", or a word of JAX;
            what they mean where is said in `structlayers.equivariant.precision`. Half-precision
            signals are computed in float32.
        implementation: "xla" (one table each way), "antipodal" (even and odd degrees on half of the
            points), "separable" (Legendre, then Fourier), "fourier" (on the torus, a reference
            route), "clebsch_gordan" (one table of all coefficients), "sparse" (the coefficients
            that are not zero, up to 2^18; in float32 at any precision), "pallas_gpu"
            (one kernel for Hopper, in "tf32", "3xtf32" and "bf16"), "pallas_tpu" (one kernel for
            TPU, in "highest", "high", "default" and "bf16"), "reference" (path by path), or None to
            choose.

    Returns:
        z `(*B, (L3 + 1)^2)` in the dtype of x, or an IrrepsArray whose value parity is the product
        of both. Derivatives of any order; in reverse mode alone for kernels and for "tf32",
        "3xtf32" and "bf16". Nothing but x, y and weights is kept for them.

    Raises:
        TypeError: integers, complex numbers, different dtypes, or one IrrepsArray alone.
        ValueError: no square number of coefficients, irreps of another kind, axes that do not
            broadcast, weights of another shape, an unknown weighting, an `lmax` beyond L1 + L2, or
            a grid that is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 0.0, 2.0, 0.0])  # 1 on (0, 0), 2 on (1, 0)
        >>> z = gaunt_tensor_product(x, x, lmax=1)
        >>> (z * (4 * jnp.pi) ** 0.5).round(5).tolist()
        [5.0, 0.0, 4.0, 0.0]

    References:
        Luo, Chen, Krishnapriyan, "Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products", 2024, arXiv:2401.10216, section 3.1.
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523.
    """
    x, x_parity = unpack("x", x)
    y, y_parity = unpack("y", y)
    parity = product_parity(x_parity, y_parity)
    if x.dtype != y.dtype:
        raise TypeError(f"y must have the dtype of x, {x.dtype}, got {y.dtype}")
    l1, l2 = lmax_of("x", x), lmax_of("y", y)
    l3 = check_lmax(lmax, l1 + l2)
    dtype = x.dtype
    x, y = widen(x), widen(y)
    word = canonicalize_table_precision(precision, dtype)
    x, y, finish = bind_weights(weighting, weights, x, y, (l1, l2, l3), word)
    z = dispatch(
        dispatcher,
        x,
        y,
        dtype=dtype,
        implementation=implementation,
        lmax=l3,
        grid=check_grid(grid, l1 + l2 + l3, "L1 + L2 + L3"),
        precision=word,
    )
    return pack(finish(z).astype(dtype), parity)

"""`many_body_product`: all powers of a signal on one grid, projected and summed."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive, require_real
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.partitioning import batch_sharding_is_known
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.ops.arguments import (
    check_grid,
    check_leading,
    check_lmax,
    scale_degrees,
    to_rank,
)
from structlayers.equivariant.ops.gaunt import (
    TPU_KERNEL,
    check_antipodal,
    check_fourier,
    check_separable,
)
from structlayers.equivariant.ops.narrow import dispatch
from structlayers.equivariant.precision import canonicalize_table_precision
from structlayers.equivariant.signals import Parity, lmax_of, pack, unpack, widen

# From which degree of the grid half of its points pay on a CPU. Milliseconds of the forward pass /
# of the gradient, float32, two shared cores, the least of 8, grids of the fewest points:
#
#   rows   L  nu lmax  T    xla          antipodal    separable
#   10000  1  3  1     4    0.16/0.23    0.30/0.34    0.54/0.67
#   10000  2  2  2     6    0.28/0.37    0.35/0.62    0.59/0.96
#   34560  3  3  2     11   3.42/1.75    2.40/3.42    5.67/13.7
#   4096   4  3  4     16   0.47/0.57    0.57/0.77    1.26/1.70
#   10000  5  3  5     20   2.56/2.25    2.20/3.21
#   4096   6  3  6     24   1.78/1.89    1.22/1.63
#   4096   7  3  7     28   1.86/2.10    1.64/2.63
#   2048   8  3  8     32   1.87/2.01    1.18/1.92
#   2048   10 3  10    40   3.12/3.98    2.38/3.23
_ANTIPODAL_PAYS = 32

# Where the kernel of Hopper GPUs is taken. Microseconds on one H200 in TF32 with weights of
# channels, 4,096 rows, of the kernel / one table each way by XLA (xla/gpu.md):
#
#   nu = 3, L to L    L = 1: 3.4 6.6    2: 5.1 8.0    3: 6.4 10.1    4: 7.3 13.6    5: 9.7 18.5
#   1 to 1            nu = 4: 4.1 6.5   5: 3.8 7.3    6: 4.2 8.5     7: 4.8 10.2
#
# so in TF32 from these rows on up to T = nu L + lmax = 20; and by L, nu and lmax from those on at
# which it was timed in the other words, too: 82 us in TF32 and 111 in 3xTF32, one table each way by
# XLA 459 and 995 (pallas_gpu/kernels.md). Fewer rows, other orders, a larger lmax, float32 signals
# in bf16 are not timed, nor are gradients at fewer than 640,000 rows.
_KERNEL_FROM_ROWS_IN_TF32 = 4096
_KERNEL_TOTAL = 20
_KERNEL_ORDERS = range(3, 8)
_KERNEL_FROM_ROWS = {(3, 3, 2): 640_000}


def _check_pallas_gpu(*args: Any, **static: Any) -> None:
    from structlayers.equivariant.pallas_gpu.support import check_many_body

    check_many_body(*args, **static)


def _check_pallas_tpu(*args: Any, **static: Any) -> None:
    from structlayers.equivariant.pallas_tpu.support import check_many_body

    check_many_body(*args, **static)


def _kernel_from_rows(degree: int, order: int, lmax: int, precision: Any) -> int | None:
    timed = order in _KERNEL_ORDERS and lmax <= degree and order * degree + lmax <= _KERNEL_TOTAL
    if precision == "tf32" and timed:
        return _KERNEL_FROM_ROWS_IN_TF32
    return _KERNEL_FROM_ROWS.get((degree, order, lmax))


def _prefer(
    x: Any, *, order: int, lmax: int, precision: Any, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    del static
    if platform == "gpu" and (precision != "bf16" or x.dtype == jnp.bfloat16):
        enough = _kernel_from_rows(lmax_of("x", x), order, lmax, precision)
        if enough is not None and math.prod(x.shape[:-1]) >= enough:
            return (("pallas_gpu", f"one kernel, faster from {enough} rows on"),)
    if platform == "tpu" and batch_sharding_is_known():
        return (TPU_KERNEL,)
    if platform == "cpu" and order * lmax_of("x", x) + lmax >= _ANTIPODAL_PAYS:
        return (("antipodal", f"half of the points, faster from T = {_ANTIPODAL_PAYS} on"),)
    return ()


# Every implementation is called with coefficients of float32 or float64 and the keywords order (2
# at least), lmax, grid and precision, and gives the powers 2 to nu, as the reference does.
dispatcher = Dispatcher(
    "many_body_product",
    (
        Implementation("xla", "structlayers.equivariant.xla.transforms:many_body_product"),
        Implementation(
            "antipodal",
            "structlayers.equivariant.xla.antipodal:many_body_product",
            check_antipodal,
        ),
        Implementation(
            "separable",
            "structlayers.equivariant.xla.transforms:many_body_product_separable",
            check_separable,
        ),
        Implementation(
            "fourier", "structlayers.equivariant.xla.fourier:many_body_product", check_fourier
        ),
        Implementation("reference", "structlayers.equivariant.reference:many_body_product"),
        Implementation(
            "pallas_gpu",
            "structlayers.equivariant.pallas_gpu.apply:many_body_product",
            _check_pallas_gpu,
        ),
        Implementation(
            "pallas_tpu",
            "structlayers.equivariant.pallas_tpu.apply:many_body_product",
            _check_pallas_tpu,
        ),
    ),
    _prefer,
)


def many_body_product(
    x: Any,
    *,
    order: int | None = None,
    lmax: int | None = None,
    weights: ArrayLike | None = None,
    grid: GridLike = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Powers 1 to nu of a signal on the sphere, projected on degrees 0 to lmax, and their sum.

    .. math:: z_{l m} = \sum_{p = 1}^{\nu} w(p, l) \int Y_{l m} f^p,
        \quad f = \sum_{l m} x_{l m} Y_{l m}

    The symmetric contraction of MACE with Gaunt coefficients: one transform to a grid that is exact
    to `T = nu L + lmax`, `nu - 1` products, as many projections.

    Args:
        x: signal of degree L, plain coefficients `(*B, (L + 1)^2)` or an `e3nn_jax.IrrepsArray`, as
            in `gaunt_tensor_product`.
        order: nu, at least 1; None reads it off the weights.
        lmax: largest degree of the result, at most nu L; None is L.
        weights: of powers and degrees, `(..., nu, lmax + 1)`; leading axes broadcast against `*B`:
            `(C, nu, lmax + 1)` for channels, `w[species]` of `(N, C, nu, lmax + 1)` for species.
            None: nothing is summed.
        grid: as in `gaunt_tensor_product`; a `SphericalGrid` must be exact to T.
        precision: as in `gaunt_tensor_product`.
        implementation: "xla" (one table each way), "antipodal", "separable", "fourier" (on the
            torus), "reference" (products of two, path by path), "pallas_gpu" (one kernel for
            Hopper), "pallas_tpu" (one for TPU), or None to choose.

    Returns:
        With weights z `(*B, (lmax + 1)^2)`, without them the powers `(*B, nu, (lmax + 1)^2)`, in
        the dtype of x; an IrrepsArray for one, whose values must be of even parity, for powers
        of odd ones alternate. Derivatives of any order, in reverse mode alone for kernels
        and "tf32", "3xtf32" and "bf16".

    Raises:
        TypeError: integers or complex numbers.
        ValueError: neither order nor weights, or both and different; shapes, irreps, an lmax or a
            grid that do not fit.

    Example:
        >>> x = jnp.array([2.0, 0.0, 0.0, 0.0])  # the constant 2 / sqrt(4 pi)
        >>> powers = many_body_product(x, order=3, lmax=0)[:, 0]
        >>> (powers * jnp.array([1.0, 4 * jnp.pi, 16 * jnp.pi**2]) ** 0.5).round(5).tolist()
        [2.0, 4.0, 8.0]

    References:
        Luo, Chen, Krishnapriyan, 2024, arXiv:2401.10216, on equivariant many-body
        interactions.
        Batatia, Kovacs, Simm, Ortner, Csanyi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697, equation 10.
    """
    x, parity = unpack("x", x)
    dtype = x.dtype
    x = widen(x)
    degree = lmax_of("x", x)
    order = _check_order(order, weights)
    lmax = check_lmax(degree if lmax is None else lmax, order * degree)
    _check_parity(parity, order)
    checked = check_grid(grid, order * degree + lmax, "nu L + lmax")
    word = canonicalize_table_precision(precision, dtype)
    powers = _first_power(x, lmax)
    if order > 1:
        rest = dispatch(
            dispatcher,
            x,
            dtype=dtype,
            implementation=implementation,
            order=order,
            lmax=lmax,
            grid=checked,
            precision=word,
        )
        powers = jnp.concatenate([powers, rest], axis=-2)
    if weights is None:
        return pack(powers.astype(dtype), parity)
    return pack(_weighted_sum(powers, weights, lmax).astype(dtype), parity)


def _check_order(order: int | None, weights: ArrayLike | None) -> int:
    shape = jnp.shape(weights) if weights is not None else None
    if shape is not None and len(shape) < 2:
        raise ValueError(f"weights must have shape (..., nu, lmax + 1), got {shape}")
    if order is None:
        if shape is None:
            raise ValueError("order or weights must be given")
        order = shape[-2]
    order = require_positive("order", order)
    if shape is not None and shape[-2] != order:
        raise ValueError(f"weights must have shape (..., {order}, lmax + 1), got {shape}")
    return order


def _check_parity(parity: Parity | None, order: int) -> None:
    if parity is not None and parity.value == -1 and order > 1:
        raise ValueError(
            "x must have values of even parity, such as 0e+1o+2e: powers of odd values alternate "
            "in parity and cannot share an IrrepsArray"
        )


def _first_power(x: jax.Array, lmax: int) -> jax.Array:
    size = (lmax + 1) ** 2
    missing = max(size - x.shape[-1], 0)
    return jnp.pad(x[..., :size], [(0, 0)] * (x.ndim - 1) + [(0, missing)])[..., None, :]


def _weighted_sum(powers: jax.Array, weights: ArrayLike, lmax: int) -> jax.Array:
    weights = jnp.asarray(weights)
    require_real("weights", weights)
    order = powers.shape[-2]
    if weights.shape[-2:] != (order, lmax + 1):
        raise ValueError(
            f"weights must have shape (..., {order}, {lmax + 1}), powers 1 to nu and degrees 0 to "
            f"lmax, got {weights.shape}"
        )
    weights = weights.astype(powers.dtype)
    rank = check_leading(x=powers, weights=weights)
    return jnp.sum(scale_degrees(to_rank(powers, rank), to_rank(weights, rank)), axis=-2)

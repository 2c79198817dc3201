"""`vector_signal_tensor_product`: cross products of vector fields, the odd couplings."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.ops.operands import prefer_tensor, signal_product
from structlayers.equivariant.paths import PathTable, signal_table, tensor_product_paths
from structlayers.equivariant.precision import canonicalize_table_precision
from structlayers.equivariant.vector_harmonics import Offsets, vector_gaunt_factor


def _check_precision(*args: Any, precision: Any, **static: Any) -> None:
    del args, static
    if not isinstance(precision, jax.lax.Precision):
        raise NotImplementedError(f"coupling tensors are not multiplied in {precision!r}")


# Entries of the coupling tensor up to which the product by it is faster on a CPU. Milliseconds of
# the forward pass / of both gradients, float32, two shared cores, the least of 7, offsets -1,
# Gauss-Legendre grids (those of now have fewer points):
#
#   rows   L1 L2 L3   xla          clebsch_gordan
#   10000  1  1  1    0.11/0.16    0.11/0.54
#   10000  2  2  2    0.61/1.05    0.35/1.52
#   10000  2  2  4    0.93/2.88    0.39/1.13
#   2048   3  3  6    0.81/1.07    0.57/0.49
#   2048   4  4  4    0.66/1.41    1.13/0.69
#   2048   4  4  8    0.97/2.69    1.14/1.00
#   1024   6  6  6    1.10/1.83    3.59/1.99
_TENSOR_PAYS = 2**16

dispatcher = Dispatcher(
    "vector_signal_tensor_product",
    (
        Implementation(
            "xla", "structlayers.equivariant.xla.vector_signal:vector_signal_tensor_product"
        ),
        Implementation(
            "clebsch_gordan",
            "structlayers.equivariant.xla.clebsch_gordan:signal_product",
            _check_precision,
        ),
        Implementation("reference", "structlayers.equivariant.path_reference:signal_product"),
    ),
    functools.partial(prefer_tensor, entries=_TENSOR_PAYS),
)


def vector_signal_tensor_product(
    x: Any,
    y: Any,
    *,
    lmax: int | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
    offsets: Offsets = (-1, -1, -1),
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Cross product, point by point, of two signals that are read as fields of vectors.

    .. math:: z_k = w^3_k \int V_k \cdot
        \left(\sum_i w^1_i x_i V_i \times \sum_j w^2_j y_j V_j\right)

    V are vector spherical harmonics, whose degree l differs from j by an offset. The default, -1
    for all, takes gradients of solid harmonics: the product then has **every** coupling of odd
    sum `l1 + l2 + l3` and none of even sum, the complement of the product of scalar signals, at
    three numbers a point: `O(L^4)` operations on an exact grid. Degrees 1 and 1 to 1 are
    `x cross y / sqrt(4 pi)`.

    Args:
        x: `(..., (L1 + 1)^2)`; or irreps array of a signal, degrees 0..L1 of one multiplicity C,
            such as `8x0e+8x1o+8x2e`. float32, bfloat16, float16, or float64 under x64.
        y: `(..., (L2 + 1)^2)`, or irreps array of the multiplicity C or 1, of the dtype of x;
            leading axes broadcast.
        lmax: largest degree of the product; None is `L1 + L2`.
        weights: of each degree of x, y and the product: `(..., L1 + 1)`, `(..., L2 + 1)` and
            `(..., lmax + 1)`, leading axes broadcast (with irreps: C is the last of them); None
            is 1, for one or all.
        offsets: of the fields of x, y and the product: -1, 0 or 1, not all 0. An odd sum of
            them has couplings of odd sum only, an even sum those of even sum. Degree 0 has a field
            of offset 1 alone, and drops out of others.
        precision: None or "highest" (true float32), "tf32", "3xtf32", "bf16", or a word of JAX,
            as in `gaunt_tensor_product`.
        implementation: "xla", the grid; "clebsch_gordan", the same by coupling tensors;
            "reference"; or None to choose.

    Returns:
        `(..., (lmax + 1)^2)`; or an irreps array, for odd couplings of signals of parities
        `p1 (-1)^l` and `p2 (-1)^l` of the other parity, `p1 p2 (-1)^(l + 1)`.

    Raises:
        TypeError: integers or complex numbers, different dtypes; an array with an irreps array.
        ValueError: a shape, irreps, degree or offset that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0, 0.0])
        >>> z = vector_signal_tensor_product(x, y, lmax=1)
        >>> (z * (4 * jnp.pi) ** 0.5).round(5).tolist()  # the x axis cross the y axis
        [0.0, 0.0, 0.0, 1.0]

    References:
        Xie, Daigavane, Kotak, Smidt, "The Price of Freedom: Exploring Expressivity and Runtime
        Tradeoffs in Equivariant Tensor Products", 2025, arXiv:2506.13523; vector signals as a
        complete product: arXiv:2602.21466 and arXiv:2603.08630.
    """
    if len(offsets) != 3 or any(offset not in (-1, 0, 1) for offset in offsets):
        raise ValueError(f"offsets must be three of -1, 0 and 1, got {offsets!r}")
    if not any(offsets):
        raise ValueError(
            "the product of offsets (0, 0, 0) is zero: two tangential fields have a radial product"
        )
    offsets = (offsets[0], offsets[1], offsets[2])

    def product(x: jax.Array, y: jax.Array, degrees: tuple[int, int, int]) -> jax.Array:
        return dispatcher(
            x,
            y,
            table=vector_signal_table(degrees, offsets),
            offsets=offsets,
            precision=canonicalize_table_precision(precision, x.dtype),
            implementation=implementation,
        )

    couplings = "odd" if sum(offsets) % 2 else "even"
    return signal_product(x, y, lmax, weights, {couplings: product})


def vector_signal_table(degrees: tuple[int, int, int], offsets: Offsets) -> PathTable:
    """The paths of the product of degrees 0..L1 and 0..L2 to 0..L3, with their factors.

    Args:
        degrees: L1, L2, L3.
        offsets: of the three fields.

    Returns:
        The paths of the one parity that the offsets allow.

    Example:
        >>> vector_signal_table((1, 1, 2), (-1, -1, -1)).paths
        ((1, 1, 1),)
    """
    first, second, third = (range(degree + 1) for degree in degrees)
    couplings = "odd" if sum(offsets) % 2 else "even"
    paths = tensor_product_paths(first, second, third, couplings=couplings)
    factors = {path: vector_gaunt_factor(path, offsets) for path in paths}
    # a factor that is zero by symmetry is a rounding error
    return signal_table(degrees, {p: value for p, value in factors.items() if abs(value) > 1e-12})

"""`matrix_tensor_product`: signals as square matrices, all couplings by one matrix product."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice, require_positive
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.equivariant.matrix_basis import matrix_factor
from structlayers.equivariant.ops.operands import prefer_tensor, signal_product
from structlayers.equivariant.paths import COUPLINGS, PathTable, signal_table, tensor_product_paths

# Entries of the coupling tensor up to which the product by it is faster on a CPU. Milliseconds of
# the forward pass / of both gradients, float32, two shared cores, the least of 7, all couplings:
#
#   rows   L1 L2 L3   xla          clebsch_gordan
#   10000  1  1  1    0.31/0.51    0.13/0.50
#   10000  2  2  4    4.16/8.98    0.51/1.73
#   2048   3  3  6    0.96/1.93    0.56/0.45
#   2048   4  4  4    0.92/1.82    1.28/0.84
#   2048   4  4  8    0.46/1.65    1.88/1.21
#   1024   6  6  6    0.52/1.05    1.99/1.87
_TENSOR_PAYS = 2**14

dispatcher = Dispatcher(
    "matrix_tensor_product",
    (
        Implementation("xla", "structlayers.equivariant.xla.matrix:matrix_tensor_product"),
        Implementation(
            "clebsch_gordan", "structlayers.equivariant.xla.clebsch_gordan:signal_product"
        ),
        Implementation("reference", "structlayers.equivariant.path_reference:signal_product"),
    ),
    functools.partial(prefer_tensor, entries=_TENSOR_PAYS),
)


def matrix_tensor_product(
    x: Any,
    y: Any,
    *,
    lmax: int | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
    couplings: str = "all",
    spin: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Product of two signals as square matrices of one spin.

    .. math:: z_{l m} = w^3_l \langle M_{l m}, X Y \rangle, \quad
        X = \sum_{l m} w^1_l x_{l m} M_{l m}

    The basis M of `(2 s + 1) x (2 s + 1)` matrices is orthonormal and of degrees 0..2 s. Matrices
    do not commute: couplings of even and of odd sum `l1 + l2 + l3` are there, the former in
    `(X Y + Y X) / 2`, the latter in `(X Y - Y X) / 2`. From degree 5 on some vanish by accident
    (see `expressivity_report`). `O(L^4)` operations to the matrices and back, `O(L^3)` for the
    product.

    Args:
        x: `(..., (L1 + 1)^2)`; or irreps array of a signal, degrees 0..L1 of one multiplicity C,
            such as `8x0e+8x1o+8x2e`. float32, bfloat16, float16, or float64 under x64.
        y: `(..., (L2 + 1)^2)`, or irreps array of the multiplicity C or 1, of the dtype of x;
            leading axes broadcast.
        lmax: largest degree of the product; None is `L1 + L2`.
        weights: of each degree of x, y and the product, as in `vector_signal_tensor_product`.
        couplings: "all", "even" or "odd" sums. On arrays "all" adds true and pseudo tensors of
            one degree: equivariant under rotations, not under inversion.
        spin: s, of `2 s` at least the largest degree; None is the smallest.
        precision: of float32 matrix products; None is the highest.
        implementation: "xla"; "clebsch_gordan", the same by coupling tensors; "reference"; or None
            to choose.

    Returns:
        `(..., (lmax + 1)^2)`; or an irreps array, of parities `p1 p2 (-1)^l` for even sums and the
        opposite for odd ones, both one after the other for "all".

    Raises:
        TypeError: integers or complex numbers, different dtypes; an array with an irreps array.
        ValueError: a shape, irreps, degree or spin that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0, 0.0])
        >>> z = matrix_tensor_product(x, y, lmax=1, couplings="odd")  # along x cross y
        >>> jnp.abs(z / z[3]).round(6).tolist()
        [0.0, 0.0, 0.0, 1.0]

    References:
        Unke, Maennel, "E3x: E(3)-Equivariant Deep Learning Made Easy", 2024, arXiv:2401.07595,
        section on fused tensor layers, where the idea is from.
    """
    require_choice("couplings", couplings, COUPLINGS)
    precision = canonicalize_precision(precision)
    if spin is not None:
        spin = require_positive("spin", spin)

    def product(
        x: jax.Array, y: jax.Array, degrees: tuple[int, int, int], *, couplings: str
    ) -> jax.Array:
        least = -(-max(degrees) // 2)
        if spin is not None and spin < least:
            raise ValueError(f"spin must be at least {least} for degrees {degrees}, got {spin}")
        size = least if spin is None else spin
        return dispatcher(
            x,
            y,
            table=matrix_table(degrees, size, couplings),
            spin=size,
            couplings=couplings,
            precision=precision,
            implementation=implementation,
        )

    parts = ("even", "odd", "all") if couplings == "all" else (couplings,)
    products = {part: functools.partial(product, couplings=part) for part in parts}
    return signal_product(x, y, lmax, weights, products)


def matrix_table(degrees: tuple[int, int, int], spin: int, couplings: str) -> PathTable:
    """The paths of the product of degrees 0..L1 and 0..L2 to 0..L3, with their factors.

    Args:
        degrees: L1, L2, L3.
        spin: of the matrices.
        couplings: "all", "even" or "odd".

    Returns:
        The paths that do not vanish.

    Example:
        >>> matrix_table((1, 1, 1), 1, "odd").paths
        ((1, 1, 1),)
    """
    first, second, third = (range(degree + 1) for degree in degrees)
    paths = tensor_product_paths(first, second, third, couplings=couplings)
    factors = {path: matrix_factor(path, spin) for path in paths}
    # a factor that is zero by symmetry or accident is a rounding error
    return signal_table(degrees, {p: value for p, value in factors.items() if abs(value) > 1e-12})

"""`clebsch_gordan_tensor_product`: any path, any parity, a weight for each path."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.equivariant.ops.arguments import check_leading, check_lmax, to_rank
from structlayers.equivariant.ops.few_rows import table_pays, terms_pay
from structlayers.equivariant.ops.operands import (
    merge_channels,
    path_weights,
    require_channels,
    require_same_dtype,
    require_same_kind,
    split_channels,
)
from structlayers.equivariant.paths import (
    FEW_TERMS,
    NORMALIZATIONS,
    Path,
    PathTable,
    path_scale,
    signal_table,
    tensor_product_paths,
)
from structlayers.equivariant.signals import lmax_of, widen
from structlayers.equivariant.wigner import couples, require_degree

# Coefficients of the dense tensor that the product by it may read.
_DENSE_TENSOR = 2**24
# Those of the smallest products, whose terms may be few.
_SMALL_TENSOR = 2**10
# Terms times rows up to which a GPU sums terms, without and with weights of rows, by the figures
# below.
_TERMS_PAY = 1_600_000
_TERMS_PAY_WITH_WEIGHTS = 2**23


def _differ(weights: Any) -> bool:
    """Whether rows have weights of their own."""
    return weights is not None and weights.size > weights.shape[-1]


def _check_dense(x: Any, y: Any, weights: Any, *, table: PathTable, **static: Any) -> None:
    del x, y, static
    size1, size2, size3 = table.sizes
    if _differ(weights):
        size3 = sum(2 * table.degrees3[k] + 1 for _, _, k in table.paths)
    if size1 * size2 * size3 > _DENSE_TENSOR:
        raise NotImplementedError(
            f"its tensor would have {size1 * size2 * size3} entries, over {_DENSE_TENSOR}"
        )


def _prefer(
    x: Any, y: Any, weights: Any, *, table: PathTable, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    del static
    if platform == "cpu" and _differ(weights):
        return (("sparse", "weights of rows: no column for every path"),)
    # of larger tables the terms are not found only to count them
    small = platform in ("cpu", "gpu") and math.prod(table.sizes) <= _SMALL_TENSOR
    if small and len(table.terms().value) <= FEW_TERMS:
        return (("sparse", f"at most {FEW_TERMS} terms: one fused loop"),)
    factors = (x, y) if weights is None else (x, y, weights)
    lead = jnp.broadcast_shapes(*(factor.shape[:-1] for factor in factors))
    # under `jax.vmap` rows are those of one call
    return _few_rows(math.prod(lead), table, _differ(weights)) if platform == "gpu" and lead else ()


def _few_rows(rows: int, table: PathTable, differ: bool) -> tuple[tuple[str, str], ...]:
    if not differ and table_pays(rows, table.sizes):
        return ()
    most = _TERMS_PAY_WITH_WEIGHTS if differ else _TERMS_PAY
    if not terms_pay(rows, table.sizes, lambda: len(table.terms().value), most):
        return ()
    return (("sparse", f"at most {most} terms in all rows: one launch"),)


# "dense" stands in front. Milliseconds forward / gradients of x and y, L1 = L2 = L3 = L, all paths,
# 2048 rows, without weights and with weights of every row; jax 0.12, float32, 2 shared cores, the
# least of many while other work ran:
#
#   L    dense        sparse       dense, rows    sparse, rows
#   1    .02  .10     .01  .02     .07   .13      .02   .02
#   2    .08  .24     .05  .09     .25   .38      .06   .12
#   3    .12  .27     .14  .28     .69   .77      .20   .38
#   4    .71  .54     .39  .87     6.1   6.0      .59   1.2
#   6    7.4  4.8     2.5  8.0     192   187      3.8   7.4
#
# With weights of 42 channels, 1 x 1 -> 1 takes .15 / .91 ms by terms, .85 / 3.4 by the tensor.
#
# On a GPU, microseconds, 0..L x 0..L -> 0..2 L of even sums, TF32 (xla/gpu.md has more):
#
#   rows    L = 1      2          3          4          5          6      dense, sparse
#   1       .86 1.3    1.2 1.1    .99 1.1    1.6 1.1    1.6 1.2    2.0 1.3
#   128     2.1 1.4    3.2 1.4    3.7 1.5    4.5 2.5    6.4 3.8    8.7 5.8
#   1000               3.7 2.7    6.1 4.3    9.4 9.8    14 19      23 34
#   10000   3.4 1.9    6.4 6.5    13 28
#
# and L x L -> L of all sums with weights of every row, forward / gradients of x, y and weights:
#
#   rows    L = 1                   2                       3
#   1000    6.1 / 11,  .90 / 2.9    9.3 / 18,  6.1 / 11     14 / 27,   3.6 / 11
#   20000   9.1 / 18,  1.1 / 4.2    29 / 59,   9.6 / 27     64 / 114,  44 / 159
dispatcher = Dispatcher(
    "clebsch_gordan_tensor_product",
    (
        Implementation(
            "dense",
            "structlayers.equivariant.xla.clebsch_gordan:clebsch_gordan_dense",
            _check_dense,
        ),
        Implementation(
            "sparse", "structlayers.equivariant.xla.clebsch_gordan:clebsch_gordan_sparse"
        ),
        Implementation(
            "reference", "structlayers.equivariant.path_reference:clebsch_gordan_tensor_product"
        ),
    ),
    _prefer,
)


def irreps_paths(
    irreps1: Any,
    irreps2: Any,
    irreps_out: Any = None,
    *,
    lmax: int | None = None,
    couplings: str = "all",
) -> tuple[tuple[Any, ...], tuple[Path, ...]]:
    """Irreps of a Clebsch-Gordan product and its paths, those of one output irrep together.

    Args:
        irreps1: of the first factor, `e3nn_jax.Irreps`; multiplicities are left out of account.
        irreps2: of the second.
        irreps_out: irreps to keep; None keeps all.
        lmax: largest degree to keep; None keeps all.
        couplings: "all"; "even" or "odd" sums of the degrees only.

    Returns:
        The irreps of the product, each once, in e3nn's order; and for each path the positions of
        its irreps in the two factors and in the product, in the order of the weights.

    Raises:
        ValueError: nothing is left to compute.

    Example:
        >>> irreps, paths = irreps_paths("0e + 1o", "1o")
        >>> irreps, paths
        ((0e, 1o, 1e, 2e), ((1, 0, 0), (0, 0, 1), (1, 0, 2), (1, 0, 3)))
    """
    import e3nn_jax as e3nn

    first, second = ([ir for _, ir in e3nn.Irreps(irreps)] for irreps in (irreps1, irreps2))
    kept = None if irreps_out is None else {ir for _, ir in e3nn.Irreps(irreps_out)}
    if lmax is not None:
        lmax = require_degree("lmax", lmax)
    parities = {"all": (0, 1), "even": (0,), "odd": (1,)}[
        require_choice("couplings", couplings, ("all", "even", "odd"))
    ]
    found = [
        (ir, i, j)
        for i, ir1 in enumerate(first)
        for j, ir2 in enumerate(second)
        for ir in ir1 * ir2
        if (kept is None or ir in kept)
        and (lmax is None or ir.l <= lmax)
        and (ir.l + ir1.l + ir2.l) % 2 in parities
    ]
    irreps = tuple(sorted({ir for ir, _, _ in found}))
    if not found:
        raise ValueError(
            f"nothing is left of the product of {irreps1} and {irreps2}: irreps_out is "
            f"{irreps_out}, lmax {lmax}, couplings {couplings!r}"
        )
    paths = sorted((irreps.index(ir), i, j) for ir, i, j in found)
    return irreps, tuple((i, j, k) for k, i, j in paths)


def _signal_table(
    degrees: tuple[int, int],
    lmax: int | None,
    paths: Sequence[Path] | None,
    couplings: str,
    normalization: str,
) -> PathTable:
    """Blocks are the degrees 0..L, so that a path's positions are its degrees."""
    lmax = check_lmax(lmax, sum(degrees))
    if paths is None:
        first, second, third = (range(degree + 1) for degree in (*degrees, lmax))
        paths = tensor_product_paths(first, second, third, couplings=couplings)
    for path in paths:
        l1, l2, l3 = path
        if min(path) < 0 or not couples(*path) or l1 > degrees[0] or l2 > degrees[1] or l3 > lmax:
            raise ValueError(
                f"paths must couple degrees up to {degrees[0]}, {degrees[1]} and {lmax}, got {path}"
            )
    if len(set(paths)) != len(paths):
        raise ValueError(f"paths must differ, got {tuple(paths)}")
    return signal_table((*degrees, lmax), {path: path_scale(path, normalization) for path in paths})


def clebsch_gordan_tensor_product(
    x: Any,
    y: Any,
    *,
    weights: ArrayLike | None = None,
    lmax: int | None = None,
    irreps_out: Any = None,
    paths: Sequence[Path] | None = None,
    couplings: str = "all",
    sum_paths: bool = True,
    normalization: str = "component",
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Product of equivariant vectors by Clebsch-Gordan coefficients, channel by channel.

    .. math:: z^{(l_3)}_k = \sum_{(l_1, l_2, l_3)} w_{l_1 l_2 l_3} c_{l_1 l_2 l_3}
        \sum_{i j} C^{l_1 l_2 l_3}_{i j k} x^{(l_1)}_i y^{(l_2)}_j

    The most general bilinear map of its kind: `O(L^3)` paths, `O(L^6)` operations dense and
    `O(L^5)` sparse for degrees up to L. C has Frobenius norm 1, c is the normalization.

    Args:
        x: `(..., (L1 + 1)^2)`, degrees 0..L1 of one signal a row; or irreps array, any irreps of
            one multiplicity C.
        y: `(..., (L2 + 1)^2)`, or irreps array of the multiplicity C or 1 (then x may have any).
            Leading axes broadcast.
        weights: `(..., P)`, one for each path, leading axes broadcast with those of x, y (with
            irreps: and the channels C, the last of them). Arrays: in the order of
            `tensor_product_paths`, or of `paths`; irreps: in that of `irreps_paths`. None is 1.
        lmax: largest degree of the product; None is `L1 + L2`.
        irreps_out: irreps to keep, for irreps arrays; None keeps all.
        paths: for arrays, triples (l1, l2, l3) in place of all.
        couplings: "all", "even" or "odd" sums `l1 + l2 + l3`. On arrays "all" adds true and pseudo
            tensors of one degree: equivariant under rotations, not under inversion. Irreps arrays
            keep them apart.
        sum_paths: for irreps arrays, whether paths to one irrep are added; False keeps a copy of
            the irrep for each path, for a linear layer to mix.
        normalization: c: "component", `sqrt(2 l3 + 1)`, and "norm", as in e3nn; "frobenius", 1;
            "gaunt", with which even sums are the product of functions on the sphere.
        precision: of float32 matrix products ("dense"); None is the highest.
        implementation: "dense" (one coupling tensor), "sparse" (its non-zero terms), "reference"
            (path by path), or None for the first of these that can serve.

    Returns:
        `(..., (lmax + 1)^2)`; or an irreps array `(..., C d)`, in the dtype of x. Half precision is
        computed in float32.

    Raises:
        TypeError: integers or complex numbers, different dtypes; an array with an irreps array.
        ValueError: a shape, multiplicity, path or degree that does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0, 0.0])
        >>> z = clebsch_gordan_tensor_product(x, y, paths=[(1, 1, 1)], lmax=1)
        >>> (z * 2**0.5).round(6).tolist()  # the cross product of the x and y axes
        [0.0, 0.0, 0.0, 1.0]

    References:
        Geiger, Smidt, "e3nn: Euclidean Neural Networks", 2022, arXiv:2207.09453, section 3.
    """
    require_choice("normalization", normalization, NORMALIZATIONS)
    options: dict[str, Any] = {
        "implementation": implementation,
        "precision": canonicalize_precision(precision),
    }
    if not require_same_kind(x, y):
        if irreps_out is not None or not sum_paths:
            raise ValueError("irreps_out and sum_paths=False are for irreps arrays")
        x, y = jnp.asarray(x), jnp.asarray(y)
        degrees = lmax_of("x", x), lmax_of("y", y)
        table = _signal_table(degrees, lmax, paths, couplings, normalization)
        return _product(x, y, weights, table, options)
    if paths is not None:
        raise ValueError("paths is for arrays; choose by irreps_out, lmax and couplings")
    x, irreps1, channels1 = split_channels("x", x)
    y, irreps2, channels2 = split_channels("y", y)
    require_channels(channels1, channels2)
    irreps3, positions = irreps_paths(irreps1, irreps2, irreps_out, lmax=lmax, couplings=couplings)
    if not sum_paths:
        irreps3 = tuple(irreps3[k] for _, _, k in positions)
        positions = tuple((i, j, p) for p, (i, j, _) in enumerate(positions))
    degrees1, degrees2, degrees3 = (
        tuple(ir.l for ir in irreps) for irreps in (irreps1, irreps2, irreps3)
    )
    scales = tuple(
        path_scale((degrees1[i], degrees2[j], degrees3[k]), normalization) for i, j, k in positions
    )
    table = PathTable(degrees1, degrees2, degrees3, positions, scales)
    product = merge_channels(_product(x, y, weights, table, options), irreps3)
    return product if sum_paths else product.simplify()


def _product(
    x: jax.Array,
    y: jax.Array,
    weights: Any,
    table: PathTable,
    options: dict[str, Any],
) -> jax.Array:
    """Dtypes and weights checked, ranks aligned, then the implementation, in float32 at least."""
    require_same_dtype(x, y)
    dtype = x.dtype
    x, y = widen(x), widen(y)
    if weights is not None:
        weights = path_weights("weights", weights, len(table.paths), x.dtype)
    rank = check_leading(x=x, y=y, weights=weights)
    given = None if weights is None else to_rank(weights, rank)
    z = dispatcher(to_rank(x, rank), to_rank(y, rank), given, table=table, **options)
    return z.astype(dtype)

"""Named shapes of the family's products: microbenchmarks and models of the papers, edge cases.

Operations, two a multiplication with a sum:

- Gaunt products, powers and vector signals: the separable transform on Gauss-Legendre points,
  `(L + 1)^2 n_beta + (2 L + 1) n_beta n_alpha` multiplications for each of the transforms, and the
  product at the points, of vectors 9;
- messages: a Gaunt product an edge and channel, and its sum;
- Clebsch-Gordan products: three for each coefficient that is not zero;
- matrices of `n = 2 s + 1` rows: `2 n^2 (L + 1)^2` for each change of the basis, `2 n^3`;
- symmetric contractions: every monomial once, two for each coefficient of its polynomials that is
  not zero, two for each weighted entry.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant.paths import tensor_product_paths
from structlayers.equivariant.wigner import clebsch_gordan

_FREEDOM = "Xie et al. 2025, arXiv:2506.13523, microbenchmark: batch 10000, MIMO"
_GAUNT = "Luo et al. 2024, arXiv:2401.10216, comparison of efficiency: 128 channels"
_MACE = "Batatia et al. 2022, arXiv:2206.07697, on 3BPA: 256 channels, lmax 3, correlation 3"
_EDGE = "edge case"


def _transform(lmax: int, degree: int) -> int:
    """Multiplications of one separable transform on the grid exact to a degree."""
    polar, azimuths = degree // 2 + 1, degree + 1
    return (lmax + 1) ** 2 * polar + (2 * lmax + 1) * polar * azimuths


def _gaunt_work(degrees: Sequence[int]) -> int:
    """Of one row."""
    total = sum(degrees)
    points = (total // 2 + 1) * (total + 1)
    return sum(2 * _transform(lmax, total) for lmax in degrees) + points


def _vector_work(degrees: Sequence[int]) -> int:
    """Of one row, fields of offset -1."""
    lower = [max(lmax - 1, 0) for lmax in degrees]
    total = sum(lower)
    points = (total // 2 + 1) * (total + 1)
    return 3 * sum(2 * _transform(lmax, total) for lmax in lower) + 9 * points


def _clebsch_gordan_work(degrees: Sequence[int]) -> int:
    """Of one row."""
    paths = tensor_product_paths(*(range(lmax + 1) for lmax in degrees))
    return sum(3 * int(np.sum(np.abs(clebsch_gordan(*path)) > 1e-12)) for path in paths)


def _matrix_work(degrees: Sequence[int]) -> int:
    """Of one row."""
    n = max(degrees) + 1
    return sum(2 * n**2 * (lmax + 1) ** 2 for lmax in degrees) + 2 * n**3


# By op: prefix of names, and operations of a row.
_PRODUCTS = {
    "gaunt_tensor_product": ("gaunt", _gaunt_work),
    "clebsch_gordan_tensor_product": ("cg", _clebsch_gordan_work),
    "vector_signal_tensor_product": ("vector", _vector_work),
    "matrix_tensor_product": ("matrix", _matrix_work),
}


def product_spec(
    rows: tuple[int, ...],
    degrees: tuple[int, int, int],
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
    op: str = "gaunt_tensor_product",
) -> ArgSpec:
    """One shape of a product of two signals.

    Args:
        rows: leading axes.
        degrees: L1, L2, L3.
        dtype: of the signals.
        source: where the shape comes from.
        tags: where it is run.
        op: key of `_PRODUCTS`.

    Example:
        >>> product_spec((5,), (1, 1, 2), "float32", source="none", tags=("smoke",)).name
        'gaunt_l1_l1_l2_b5_float32'
    """
    prefix, work = _PRODUCTS[op]
    l1, l2, l3 = degrees
    return ArgSpec(
        name=f"{prefix}_l{l1}_l{l2}_l{l3}_b{'x'.join(map(str, rows))}_{dtype}",
        op=op,
        arrays=tuple(
            jax.ShapeDtypeStruct((*rows, (lmax + 1) ** 2), jnp.dtype(dtype)) for lmax in (l1, l2)
        ),
        static={"lmax": l3},
        operations=math.prod(rows) * work(degrees),
        source=source,
        tags=frozenset(tags),
        row_arrays=(0, 1),
    )


def _messages(
    sizes: tuple[int, int, int],
    degrees: tuple[int, int, int],
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
) -> ArgSpec:
    (nodes, edges, channels), (l1, l2, l3) = sizes, degrees
    indices = jax.ShapeDtypeStruct((edges,), jnp.int32)
    return ArgSpec(
        name=f"messages_l{l1}_l{l2}_l{l3}_n{nodes}_e{edges}_c{channels}_{dtype}",
        op="gaunt_message_passing",
        arrays=(
            jax.ShapeDtypeStruct((nodes, channels, (l1 + 1) ** 2), jnp.dtype(dtype)),
            jax.ShapeDtypeStruct((edges, (l2 + 1) ** 2), jnp.dtype(dtype)),
            indices,
            indices,
        ),
        static={"lmax": l3},
        operations=edges * channels * (_gaunt_work(degrees) + (l3 + 1) ** 2),
        source=source,
        tags=frozenset(tags),
        row_arrays=(),
    )


type _Counts = tuple[int, ...]

# Irreps of the vector, their dimension, and irreps of the polynomials; by order the numbers of
# paths, of entries of all polynomials, and of their coefficients that are not zero.
_CONTRACTIONS: dict[str, tuple[str, int, str, _Counts, _Counts, _Counts]] = {
    "l1_l0": ("0e + 1o", 4, "0e", (1, 2), (1, 2), (1, 4)),
    "l3_l2": ("0e + 1o + 2e + 3o", 16, "0e + 1o + 2e", (3, 12, 34), (9, 38, 114), (9, 125, 1167)),
}


def _contraction(
    rows: int, channels: int, kind: str, dtype: str, *, source: str, tags: Iterable[str]
) -> ArgSpec:
    irreps, size, irreps_out, paths, entries, nonzero = _CONTRACTIONS[kind]
    monomials = sum(math.comb(size + order, order + 1) for order in range(1, len(paths)))
    return ArgSpec(
        name=f"contraction{len(paths)}_{kind}_b{rows}x{channels}_{dtype}",
        op="symmetric_contraction",
        arrays=(
            jax.ShapeDtypeStruct((rows, channels, size), jnp.dtype(dtype)),
            [jax.ShapeDtypeStruct((channels, count), jnp.float32) for count in paths],
        ),
        static={"irreps_in": irreps, "irreps_out": irreps_out},
        operations=rows * channels * (monomials + 2 * sum((*nonzero, *entries))),
        source=source,
        tags=frozenset(tags),
    )


def power_spec(
    rows: tuple[int, ...],
    lmax: int,
    order: int,
    lmax_out: int,
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
) -> ArgSpec:
    """One shape of `many_body_product`, without weights.

    Args:
        rows: leading axes.
        lmax: L.
        order: nu.
        lmax_out: largest degree of the result.
        dtype: of the signal.
        source: where the shape comes from.
        tags: where it is run.

    Example:
        >>> power_spec((5,), 1, 3, 1, "float32", source="none", tags=("smoke",)).name
        'power3_l1_l1_b5_float32'
    """
    total = order * lmax + lmax_out
    points = (total // 2 + 1) * (total + 1)
    work = 2 * _transform(lmax, total) + (order - 1) * (2 * _transform(lmax_out, total) + points)
    return ArgSpec(
        name=f"power{order}_l{lmax}_l{lmax_out}_b{'x'.join(map(str, rows))}_{dtype}",
        op="many_body_product",
        arrays=(jax.ShapeDtypeStruct((*rows, (lmax + 1) ** 2), jnp.dtype(dtype)),),
        static={"order": order, "lmax": lmax_out},
        operations=math.prod(rows) * work,
        source=source,
        tags=frozenset(tags),
    )


def make_inputs(spec: ArgSpec, key: jax.Array) -> tuple[Any, ...]:
    """Standard normal numbers; indices of nodes."""
    leaves, structure = jax.tree.flatten(spec.arrays)

    def draw(key: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jax.random.randint(key, leaf.shape, 0, leaves[0].shape[0], leaf.dtype)
        return jax.random.normal(key, leaf.shape).astype(leaf.dtype)

    return structure.unflatten(map(draw, jax.random.split(key, len(leaves)), leaves))


_OTHERS = (
    "clebsch_gordan_tensor_product",
    "vector_signal_tensor_product",
    "matrix_tensor_product",
)

ARG_SPECS: tuple[ArgSpec, ...] = (
    product_spec((3,), (0, 0, 0), "float32", source=_EDGE, tags=("smoke",)),
    product_spec((7,), (3, 1, 2), "float32", source=_EDGE, tags=("smoke", "cpu")),
    product_spec((5,), (2, 2, 4), "bfloat16", source=_EDGE, tags=("smoke",)),
    power_spec((5,), 1, 2, 2, "float32", source=_EDGE, tags=("smoke",)),
    power_spec((7,), 2, 3, 1, "float32", source=_EDGE, tags=("smoke", "cpu")),
    *(
        product_spec(
            (10_000,),
            (lmax, lmax, 2 * lmax),
            "float32",
            source=_FREEDOM,
            tags=("cpu", "gpu", "tpu"),
        )
        for lmax in (1, 2, 4, 8)
    ),
    product_spec((10_000,), (10, 10, 20), "float32", source=_FREEDOM, tags=("gpu", "tpu")),
    *(
        product_spec((100_000, 128), (lmax, lmax, lmax), dtype, source=_GAUNT, tags=("gpu", "tpu"))
        for lmax in (2, 3, 4, 6, 8)
        for dtype in ("float32", "bfloat16")
    ),
    power_spec((135, 256), 3, 3, 2, "float32", source=_MACE, tags=("cpu", "gpu", "tpu")),
    *(
        power_spec((5_000, 128), 3, 3, 2, dtype, source=_MACE, tags=("gpu", "tpu"))
        for dtype in ("float32", "bfloat16")
    ),
    *(
        product_spec((rows,), degrees, dtype, source=_EDGE, tags=tags, op=op)
        for op in _OTHERS
        for rows, degrees, dtype, tags in (
            (3, (1, 1, 1), "float32", ("smoke",)),
            (7, (3, 1, 2), "float32", ("smoke", "cpu")),
            (5, (2, 2, 4), "bfloat16", ("smoke",)),
        )
    ),
    *(
        product_spec(
            (10_000,),
            (lmax, lmax, 2 * lmax),
            "float32",
            source=_FREEDOM,
            tags=("cpu", "gpu", "tpu") if lmax < 4 else ("gpu", "tpu"),
            op=op,
        )
        for op in _OTHERS
        for lmax in (1, 2, 4)
    ),
    _messages((5, 9, 3), (2, 1, 2), "float32", source=_EDGE, tags=("smoke",)),
    _messages((40, 300, 16), (2, 3, 3), "float32", source=_EDGE, tags=("cpu",)),
    _messages((135, 2_255, 128), (2, 3, 3), "float32", source=_MACE, tags=("gpu", "tpu")),
    _contraction(7, 3, "l1_l0", "float32", source=_EDGE, tags=("smoke",)),
    _contraction(135, 16, "l3_l2", "float32", source=_MACE, tags=("cpu", "tpu")),
    _contraction(135, 256, "l3_l2", "float32", source=_MACE, tags=("gpu",)),
)

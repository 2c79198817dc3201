"""Named shapes of the family's products: microbenchmarks and models of the papers, edge cases.

Operations are those of the separable transform on Gauss-Legendre points, two a multiplication with
a sum: `(L + 1)^2 n_beta + (2 L + 1) n_beta n_alpha` multiplications for each of the transforms.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec

_FREEDOM = "Xie et al. 2025, arXiv:2506.13523, microbenchmark: batch 10000, MIMO"
_GAUNT = "Luo et al. 2024, arXiv:2401.10216, section 4: 128 channels"
_MACE = "Batatia et al. 2022, arXiv:2206.07697, on 3BPA: 256 channels, lmax 3, correlation 3"
_EDGE = "edge case"


def _transform(lmax: int, degree: int) -> int:
    """Multiplications of one separable transform on the grid exact to a degree."""
    polar, azimuths = degree // 2 + 1, degree + 1
    return (lmax + 1) ** 2 * polar + (2 * lmax + 1) * polar * azimuths


def product_spec(
    rows: tuple[int, ...],
    degrees: tuple[int, int, int],
    dtype: str,
    *,
    source: str,
    tags: Iterable[str],
) -> ArgSpec:
    """One shape of `gaunt_tensor_product`.

    Args:
        rows: leading axes.
        degrees: L1, L2, L3.
        dtype: of the signals.
        source: where the shape comes from.
        tags: where it is run.

    Example:
        >>> product_spec((5,), (1, 1, 2), "float32", source="none", tags=("smoke",)).name
        'gaunt_l1_l1_l2_b5_float32'
    """
    total = sum(degrees)
    points = (total // 2 + 1) * (total + 1)
    work = sum(2 * _transform(lmax, total) for lmax in degrees) + points
    l1, l2, l3 = degrees
    return ArgSpec(
        name=f"gaunt_l{l1}_l{l2}_l{l3}_b{'x'.join(map(str, rows))}_{dtype}",
        op="gaunt_tensor_product",
        arrays=tuple(
            jax.ShapeDtypeStruct((*rows, (lmax + 1) ** 2), jnp.dtype(dtype)) for lmax in (l1, l2)
        ),
        static={"lmax": l3},
        operations=math.prod(rows) * work,
        source=source,
        tags=frozenset(tags),
        row_arrays=(0, 1),
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


def make_inputs(spec: ArgSpec, key: jax.Array) -> tuple[jax.Array, ...]:
    """Standard normal coefficients."""
    keys = jax.random.split(key, len(spec.arrays))
    return tuple(
        jax.random.normal(draw, shape.shape).astype(shape.dtype)
        for draw, shape in zip(keys, spec.arrays, strict=True)
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
)

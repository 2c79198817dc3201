"""Named shapes of the structured products: Table 1 of the butterfly paper, and larger sizes.

Operations are those of the fast algorithm, real unless said. A real transform of length N counts
`2.5 N log2 N`, a complex one `5 N log2 N`, a product of spectra 6 per complex entry.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from structlayers._core.arg_spec import ArgSpec

_TABLE = "Dao et al. 2019, arXiv:1903.05895, table 1 (section 4.2): N = 1024, batch 50"
_LARGE = "Thomas et al. 2018, arXiv:1810.02309, at a larger batch"
_EDGE = "edge case"

type Shape = tuple[int, ...]


def _spec(
    op: str,
    shapes: tuple[Shape, ...],
    dtype: str,
    operations: int | float,
    source: str,
    tags: str,
    suffix: str = "",
) -> ArgSpec:
    (rows, size), *weights = shapes
    weight_dtype = "float32" if dtype == "bfloat16" else dtype
    return ArgSpec(
        name=f"{op.removesuffix('_multiply')}_n{size}{suffix}_b{rows}_{dtype}",
        op=op,
        arrays=(
            jax.ShapeDtypeStruct((rows, size), jnp.dtype(dtype)),
            *(jax.ShapeDtypeStruct(shape, jnp.dtype(weight_dtype)) for shape in weights),
        ),
        static={},
        operations=round(operations),
        source=source,
        tags=frozenset(tags.split()),
    )


def _transform(n: int) -> float:
    return 2.5 * n * math.log2(n)


def _circulant(n: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    work = rows * (2 * _transform(n) + 3 * n) + _transform(n)
    return _spec("circulant_multiply", ((rows, n), (n,)), dtype, work, source, tags)


def _toeplitz_like(n: int, rank: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    # complex transforms for the skew-circulant half, real ones for the circulant half
    each = (1 + rank) * (2 * _transform(n) + 12 * n) + (rank + 1) * _transform(n) + 3 * rank * n
    shapes = ((rows, n), (rank, n), (rank, n))
    work = rows * each + 3 * rank * _transform(n)
    return _spec("toeplitz_like_multiply", shapes, dtype, work, source, tags, f"_r{rank}")


def _ldr(n: int, rank: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    shapes = ((rows, n), (rank, n), (rank, n), (3, n), (3, n))
    work = 10 * rank * n * n + 4 * rank * rows * n * n
    return _spec("ldr_multiply", shapes, dtype, work, source, tags, f"_r{rank}")


def _low_rank(n: int, rank: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    shapes = ((rows, n), (n, rank), (n, rank))
    return _spec("low_rank_multiply", shapes, dtype, 4 * rank * rows * n, source, tags, f"_r{rank}")


def _fastfood(n: int, rows: int, dtype: str, source: str, tags: str) -> ArgSpec:
    spec = _spec(
        "fastfood_multiply",
        ((rows, n), (n,), (n,), (n,)),
        dtype,
        rows * (2 * n * math.log2(n) + 3 * n),
        source,
        tags,
    )
    order = jax.ShapeDtypeStruct((n,), jnp.dtype("int32"))
    return dataclasses.replace(spec, arrays=(*spec.arrays, order))


def make_inputs(spec: ArgSpec, key: jax.Array) -> tuple[jax.Array, ...]:
    """Random arguments: normal, a permutation for Fastfood, LDR operators near the shifts.

    Powers of a normal random operator overflow: LDR-TD is used with norms near one.
    """
    arrays = []
    for index, shape in enumerate(spec.arrays):
        key, draw = jax.random.split(key)
        if jnp.issubdtype(shape.dtype, jnp.integer):
            arrays.append(jax.random.permutation(draw, shape.shape[-1]).astype(shape.dtype))
            continue
        values = jax.random.normal(draw, shape.shape)
        if spec.op == "ldr_multiply" and index >= 3:
            shift = jnp.zeros(shape.shape).at[0].set(1)
            values = shift + 1e-2 / shape.shape[-1] ** 0.5 * values
        arrays.append(values.astype(shape.dtype))
    return tuple(arrays)


ARG_SPECS: tuple[ArgSpec, ...] = (
    _circulant(1, 3, "float32", _EDGE, "smoke"),
    _circulant(60, 5, "float32", _EDGE, "smoke cpu"),
    _toeplitz_like(60, 2, 5, "float32", _EDGE, "smoke cpu"),
    _ldr(60, 2, 5, "float32", _EDGE, "smoke cpu"),
    _fastfood(64, 5, "float32", _EDGE, "smoke cpu"),
    _low_rank(60, 3, 5, "float32", _EDGE, "smoke cpu"),
    _circulant(1024, 50, "float32", _TABLE, "cpu gpu tpu"),
    _toeplitz_like(1024, 4, 50, "float32", _TABLE, "cpu gpu tpu"),
    _ldr(1024, 1, 50, "float32", _TABLE, "cpu gpu tpu"),
    _fastfood(1024, 50, "float32", _TABLE, "cpu gpu tpu"),
    _low_rank(1024, 4, 50, "float32", _TABLE, "cpu gpu tpu"),
    *(_circulant(n, 256, "float32", _LARGE, "cpu gpu") for n in (256, 4096)),
    _toeplitz_like(256, 4, 256, "float32", _LARGE, "cpu gpu"),
    _fastfood(4096, 256, "float32", _LARGE, "cpu gpu"),
    *(_circulant(n, 16384, "float32", _LARGE, "gpu") for n in (256, 1024, 4096)),
    *(_fastfood(4096, 16384, dtype, _LARGE, "gpu") for dtype in ("float32", "bfloat16")),
)

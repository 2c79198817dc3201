"""The kernel on rows of coefficients `(R, (L + 1)^2)`."""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from structlayers.equivariant.pallas_gpu.plan import Mode, Plan, Problem
from structlayers.equivariant.pallas_gpu.program import program
from structlayers.equivariant.pallas_gpu.rows import RowLayout
from structlayers.equivariant.pallas_gpu.split import Part, split_problem
from structlayers.equivariant.pallas_gpu.tables import table_words
from structlayers.equivariant.pointwise import Product, largest_degree


def parts_of(
    arrays: Sequence[jax.Array],
    products: tuple[Product, ...],
    mode: Mode,
    repeats: tuple[int, ...],
) -> list[Part]:
    """The launches for arrays `(..., (L + 1)^2)`; how many does not depend on the rows."""
    degrees = tuple(largest_degree(x.shape[-1]) for x in arrays)
    rows = math.prod(arrays[0].shape[:-1]) * repeats[0]
    itemsize = arrays[0].dtype.itemsize
    return split_problem(Problem(rows, degrees, products, itemsize, mode, repeats))


def tables_of(parts: Sequence[Part]) -> tuple[np.ndarray, ...]:
    """The table of each launch."""
    # those of any number of rows of either type are the same
    return tuple(table_words(part.plan.problem.of_rows(1, 4)) for part in parts)


def products_of_signals(
    tables: Sequence[jax.Array],
    arrays: Sequence[jax.Array],
    products: tuple[Product, ...],
    mode: Mode,
    repeats: tuple[int, ...],
) -> list[jax.Array]:
    """Sums of products of some of the arrays, in their dtype.

    Args:
        tables: from `tables_of`.
        arrays: `(R / repeat, (L + 1)^2)` each, all float32 or all bfloat16.
        products: what is multiplied, and the degrees that are kept.
        mode: how tensor cores multiply.
        repeats: of each array, for how many rows that follow each other one of its rows stands.
    """
    found: list[list[jax.Array]] = [[] for _ in products]
    for part, table in zip(parts_of(arrays, products, mode, repeats), tables, strict=True):
        results = launch_plan(part.plan, table, [arrays[i] for i in part.inputs])
        for number, result in zip(part.results, results, strict=True):
            found[number].append(result)
    return [functools.reduce(operator.add, results) for results in found]


def launch_plan(plan: Plan, table: jax.Array, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """One launch."""
    from structlayers._core.simt.mosaic import launch

    problem, dtype = plan.problem, arrays[0].dtype
    degrees = "_".join(map(str, (*problem.degrees, "to", *(p.degree for p in problem.products))))
    return launch(
        program(plan),
        (table, *(_filled(x, layout) for x, layout in zip(arrays, plan.inputs, strict=True))),
        [
            jax.ShapeDtypeStruct((problem.rows, (product.degree + 1) ** 2), dtype)
            for product in problem.products
        ],
        clusters=plan.blocks,
        cluster_size=1,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name=f"gaunt_{degrees}_{problem.mode}_{dtype.name}",
    )


def _filled(x: jax.Array, layout: RowLayout) -> jax.Array:
    """Rows that are copied one by one, at multiples of what copies count in."""
    if not layout.shared:
        return x
    return jnp.pad(x, ((0, 0), (0, layout.pitch // x.dtype.itemsize - x.shape[1])))

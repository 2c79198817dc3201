"""The kernel on rows of coefficients `(R, (L + 1)^2)`."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from structlayers.equivariant.pallas_gpu.plan import Mode, Plan, Problem, Product, choose_plan
from structlayers.equivariant.pallas_gpu.program import program
from structlayers.equivariant.pallas_gpu.tables import table_words


def largest_degree(columns: int) -> int:
    """L of rows of (L + 1)^2 numbers.

    Example:
        >>> largest_degree(25)
        4
    """
    return math.isqrt(columns) - 1


def table_of(degrees: tuple[int, ...], products: tuple[Product, ...], mode: Mode) -> np.ndarray:
    """The tables of a problem of any number of rows."""
    return table_words(Problem(1, degrees, products, 4, mode))


def products_of_signals(
    table: jax.Array,
    arrays: Sequence[jax.Array],
    products: tuple[Product, ...],
    mode: Mode,
    *,
    plan: Plan | None = None,
) -> list[jax.Array]:
    """Each product of some of the arrays, in their dtype.

    Args:
        table: from `table_of`.
        arrays: `(R, (L + 1)^2)` each, all float32 or all bfloat16.
        products: what is multiplied, and the degrees that are kept.
        mode: how tensor cores multiply.
        plan: how to launch; None chooses.
    """
    from structlayers._core.simt.mosaic import launch

    rows, dtype = arrays[0].shape[0], arrays[0].dtype
    degrees = tuple(largest_degree(x.shape[1]) for x in arrays)
    if plan is None:
        plan = choose_plan(Problem(rows, degrees, products, dtype.itemsize, mode))
    return launch(
        program(plan),
        (table, *arrays),
        [jax.ShapeDtypeStruct((rows, (one.degree + 1) ** 2), dtype) for one in products],
        clusters=plan.blocks,
        cluster_size=1,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name=f"gaunt_{'_'.join(map(str, degrees))}_{mode}_{dtype.name}",
    )

"""The grids of the Pallas kernels in a traced function."""

import math
from collections.abc import Iterator
from typing import Any


def grid_steps(jaxpr: Any) -> list[int | None]:
    """Steps of the grid of every Pallas kernel in a jaxpr, in order.

    Args:
        jaxpr: a jaxpr, closed or open.

    Returns:
        For each kernel the product of its grid, or None if a bound is only known at run time.

    Example:
        >>> import jax
        >>> from jax.experimental import pallas as pl
        >>> def double(x_ref, y_ref):
        ...     y_ref[...] = x_ref[...] * 2
        >>> x = jax.ShapeDtypeStruct((8, 128), "float32")
        >>> grid_steps(jax.make_jaxpr(pl.pallas_call(double, out_shape=x, grid=(3, 4)))(x))
        [12]
    """
    return list(_walk(jaxpr))


def _walk(jaxpr: Any) -> Iterator[int | None]:
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "pallas_call":
            grid = equation.params["grid_mapping"].grid
            yield math.prod(grid) if all(isinstance(bound, int) for bound in grid) else None
            continue
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from _walk(inner)

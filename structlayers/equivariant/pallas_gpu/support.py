"""What the kernel serves, from shapes, dtypes and precision alone; imports no Pallas."""

import math
from typing import Any

from structlayers._core.pallas import require_hopper
from structlayers.equivariant.pallas_gpu.plan import MODES, Mode, Problem
from structlayers.equivariant.pallas_gpu.split import split_problem
from structlayers.equivariant.pointwise import (
    Product,
    largest_degree,
    powers,
    product_of,
    pulled_back,
)


def check(x: Any, y: Any, *, lmax: int, precision: Any, platform: str, **static: Any) -> None:
    """Whether the kernel serves `gaunt_tensor_product` and its gradient.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    mode = _check_arrays(x, y, precision=precision, platform=platform)
    _check_fit((x, y), (product_of((0, 1), lmax),), mode)


def check_many_body(
    x: Any, *, order: int, lmax: int, precision: Any, platform: str, **static: Any
) -> None:
    """Whether the kernel serves `many_body_product` and its gradient.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    mode = _check_arrays(x, precision=precision, platform=platform)
    _check_fit((x,), powers(order, lmax), mode)


def _check_arrays(*arrays: Any, precision: Any, platform: str) -> Mode:
    require_hopper(platform)
    dtype = arrays[0].dtype.name
    if dtype not in ("float32", "bfloat16"):
        raise NotImplementedError(f"it takes float32 and bfloat16, not {dtype}")
    mode = MODES.get(precision) if isinstance(precision, str) else None
    if mode is None:
        words = ", ".join(map(repr, MODES))
        raise NotImplementedError(
            f"it multiplies by tensor cores, in precision {words}, not {precision!r}"
        )
    if any(0 in x.shape for x in arrays):
        raise NotImplementedError(f"an array is empty, of {[x.shape for x in arrays]}")
    return mode


def _check_fit(arrays: tuple[Any, ...], products: tuple[Product, ...], mode: Mode) -> None:
    degrees = tuple(largest_degree(x.shape[-1]) for x in arrays)
    kept = tuple(product.degree for product in products)
    if min(*degrees, *kept) < 1:
        raise NotImplementedError(f"it takes degrees of at least 1, not {degrees} to {kept}")
    rows, itemsize = math.prod(arrays[0].shape[:-1]), arrays[0].dtype.itemsize
    split_problem(Problem(rows, degrees, products, itemsize, mode))
    gradients = tuple(one for one in pulled_back(degrees, products) if one is not None)
    split_problem(Problem(rows, (*degrees, *kept), gradients, itemsize, mode))

"""What the kernel serves, from shapes, dtypes and precision alone; imports no Pallas."""

import math
from typing import Any

from structlayers._core.pallas import require_hopper
from structlayers.equivariant.pallas_gpu.plan import MODES, Problem, Product, choose_plan


def check(x: Any, y: Any, *, lmax: int, precision: Any, platform: str, **static: Any) -> None:
    """Whether the kernel serves `gaunt_tensor_product`.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    require_hopper(platform)
    if x.dtype.name not in ("float32", "bfloat16"):
        raise NotImplementedError(f"it takes float32 and bfloat16, not {x.dtype.name}")
    mode = MODES.get(precision) if isinstance(precision, str) else None
    if mode is None:
        words = ", ".join(map(repr, MODES))
        raise NotImplementedError(
            f"it multiplies by tensor cores, in precision {words}, not {precision!r}"
        )
    if 0 in x.shape or 0 in y.shape:
        raise NotImplementedError(f"x or y is empty, of shapes {x.shape} and {y.shape}")
    degrees = tuple(math.isqrt(size) - 1 for size in (x.shape[-1], y.shape[-1]))
    if min(*degrees, lmax) < 1:
        raise NotImplementedError(
            f"it takes degrees of at least 1, not {degrees[0]} and {degrees[1]} to {lmax}"
        )
    rows = math.prod(x.shape[:-1])
    # the gradients of x and of y are such products too
    for first, second, kept in ((*degrees, lmax), (degrees[1], lmax, degrees[0])):
        product = Product((0, 1), kept)
        choose_plan(Problem(rows, (first, second), (product,), x.dtype.itemsize, mode))

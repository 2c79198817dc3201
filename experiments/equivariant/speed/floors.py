"""Bytes and products of a grid product: what no kernel with one table each way runs below."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from experiments.bench.floors import count_bytes
from experiments.bench.modes import Mode
from structlayers._core.arg_spec import ArgSpec
from structlayers.equivariant.grids import get_grid

# Products of the tensor cores that one product of each precision takes, and their rate.
_UNITS = {"tf32": ("tf32", 1), "3xtf32": ("tf32", 3), "bf16": ("bf16", 1)}


@dataclass(frozen=True)
class Floor:
    """The least time of a product.

    Attributes:
        bytes: inputs read once, results written once; with gradients both again.
        products: multiplications with a sum, of points times coefficients.
        unit: of the measured rates, whose operations are two a product.
    """

    bytes: int
    products: int
    unit: str

    def seconds(self, ceilings: Mapping[str, float]) -> float:
        """The longer of the two at measured rates."""
        return max(self.bytes / ceilings["copy"], 2 * self.products / ceilings[self.unit])


def floor_of(spec: ArgSpec, result: jax.ShapeDtypeStruct, mode: Mode, precision: str) -> Floor:
    """The floor of one product.

    Products are those of one table each way on the grid of the fewest points, every row: `N K` for
    each transform of K coefficients on N points. Two signals are brought to the grid and one back;
    a signal that is multiplied with itself is brought once, and every power but the first back.
    With gradients, what is on the grid is made again: two more to the grid and two back for two
    signals. The split into opposite points needs about half of them, so a share can exceed 1 where
    products bound it.

    Args:
        spec: shapes of `gaunt_tensor_product` or `many_body_product`.
        result: shape of what the op returns.
        mode: "forward" or "forward_backward".
        precision: "highest", "tf32", "3xtf32" or "bf16".

    Example:
        >>> from structlayers.equivariant.arg_specs import ARG_SPECS
        >>> spec = next(s for s in ARG_SPECS if s.name == "gaunt_l4_l4_l4_b100000x128_float32")
        >>> floor = floor_of(spec, spec.arrays[0], "forward", "tf32")
        >>> floor.bytes // 12_800_000, floor.products // 12_800_000
        (300, 6450)
    """
    lead = spec.arrays[0].shape[:-1]
    sizes = [array.shape[-1] for array in spec.arrays]
    order = spec.static.get("order", len(sizes))
    degrees = [math.isqrt(size) - 1 for size in sizes]
    largest = sum(degrees) if len(sizes) > 1 else order * degrees[0]
    total = largest + spec.static["lmax"]
    points = len(get_grid(None, total).weights)
    back = (order - 1) * (spec.static["lmax"] + 1) ** 2
    columns = sum(sizes) + back
    if mode == "forward_backward":
        columns += sum(sizes) + back + sum(sizes)
    unit, times = _UNITS.get(precision, ("float32", 1))
    return Floor(
        count_bytes(spec.arrays, spec.static, result, mode),
        times * math.prod(lead) * points * columns,
        unit,
    )

"""Launches of the factors' gradient in bfloat16, for each size. Imports no Pallas.

Their merged radices are their own, the gradient is that of the twiddle: two factors within blocks
of up to 1024 columns, and one of the largest strides that crosses them. Simulated,
measured as whole gradients (kernels.md).
"""

import dataclasses
import math
from typing import TypedDict

from structlayers.butterfly.pallas_gpu.gradient_layout import GradientPlan
from structlayers.butterfly.pallas_gpu.plans import MULTIPROCESSORS, strides
from structlayers.butterfly.pallas_gpu.tensor_layout import Factor, Plan

# Radices of parts whose columns fit a block of threads together, by increasing stride.
_PARTS = {
    512: ((16, 32),),
    1024: ((32, 32),),
    2048: ((32, 32), (2,)),
    4096: ((32, 32), (4,)),
    8192: ((32, 32), (8,)),
    16384: ((32, 32), (16,)),
}

type Part = tuple[Factor, ...]


def gradient_radices(size: int) -> tuple[int, ...]:
    """Radices of the merged factors, by increasing stride."""
    return tuple(radix for part in _PARTS[size] for radix in part)


def gradient_parts(size: int, *, increasing: bool) -> list[Part]:
    """Factors in the order of application, by part."""
    parts, stride = [], 1
    for radices in _PARTS[size]:
        factors = tuple(map(Factor, radices, strides(radices, stride)))
        parts.append(factors if increasing else factors[::-1])
        stride *= math.prod(radices)
    return parts if increasing else parts[::-1]


class _Tiling(TypedDict):
    segments: int
    warps: int
    clusters: int


def _tiling(size: int, columns: int) -> _Tiling:
    """Sizes of blocks of so many columns, 64 a warp, in as many clusters as they find room for."""
    segments = size // columns
    warps = min(columns // 64, 16)
    clusters = MULTIPROCESSORS * 16 // warps // segments * segments
    return {"segments": segments, "warps": warps, "clusters": clusters}


def product_plan(part: Part, size: int, rows: int) -> Plan:
    """The launch of a part's product."""
    crosses = min(factor.stride for factor in part) > 1
    # across: longer pieces of rows, and results stored by threads
    columns = 2048 if crosses else min(size, 1024)
    slots = 3 if crosses else 4
    plan = Plan(size, rows, part, slots=slots, staged=not crosses, **_tiling(size, columns))
    clusters = min(plan.clusters, plan.tiles * plan.segments)
    return dataclasses.replace(plan, clusters=clusters)


def sum_plans(part: Part, size: int, rows: int) -> list[GradientPlan]:
    """The launches that sum up the gradients of a part's factors, one each."""
    plans = []
    for target in range(len(part)):
        plan = GradientPlan(size, rows, part, target=target, **_tiling(size, min(size, 1024)))
        # every block has a tile
        clusters = min(plan.clusters, plan.tiles * plan.segments)
        plans.append(dataclasses.replace(plan, clusters=clusters))
    return plans

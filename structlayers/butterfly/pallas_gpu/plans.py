"""Which kernel serves a size, and with which sizes of its own. Imports no Pallas.

Measured choices, jax 0.11.2 on one H200; what was tried beside them stands in kernels.md.
"""

import dataclasses
import math
from collections.abc import Sequence

from structlayers.butterfly.pallas_gpu import scalar_program, tensor_layout
from structlayers.butterfly.pallas_gpu.scalar_program import Pass
from structlayers.butterfly.pallas_gpu.tensor_layout import Factor

# of an H100 or H200 (SXM); clusters of 4 and 8 find room on 128 of them
MULTIPROCESSORS = 132


@dataclasses.dataclass(frozen=True)
class _Tensor:
    radices: tuple[int, ...]
    clusters: int = MULTIPROCESSORS
    cluster_size: int = 1
    segments: int = 1
    planes: int = 1
    slots: int = 4
    warps: int = 16
    staged: bool = True


@dataclasses.dataclass(frozen=True)
class _Scalar:
    radices: tuple[int, ...]
    team: int = 256
    segments: int = 1
    pipelined: bool = False


# Vectors of smaller transforms stand side by side in rows of so many columns.
_LEAST_COLUMNS = 256

# Radices of the sizes whose blocks of threads merge the factors themselves.
_UNMERGED = {64: (16, 4), 128: (16, 8), 256: (16, 16)}

# The launches of each size, by increasing stride.
_TENSOR = {
    512: (_Tensor((16, 32), 2 * MULTIPROCESSORS, warps=8, staged=False),),
    1024: (_Tensor((32, 32), staged=False),),
    2048: (_Tensor((16, 16, 8), MULTIPROCESSORS // 2, cluster_size=2, staged=False),),
    4096: (
        _Tensor((32, 32), segments=4),
        _Tensor((4,), segments=4, planes=2, slots=2, staged=False),
    ),
    8192: (
        _Tensor((32, 32), 128, segments=8),
        _Tensor((8,), 128, segments=8, planes=2, slots=2, staged=False),
    ),
    16384: (
        _Tensor((32, 32), 128, segments=16),
        _Tensor((16,), 128, segments=8, slots=3, staged=False),
    ),
}
_REAL = {
    64: (_Scalar((4, 4, 4), 64, pipelined=True),),
    128: (_Scalar((4, 4, 4, 2), 64, pipelined=True),),
    256: (_Scalar((4, 4, 4, 4), 64, pipelined=True),),
    512: (_Scalar((8, 8, 8), 64),),
    1024: (_Scalar((8, 8, 4, 4), 128),),
    2048: (_Scalar((8, 8, 8, 4)),),
    4096: (_Scalar((8, 8, 8, 4), segments=2), _Scalar((2,), segments=2)),
    8192: (_Scalar((8, 8, 8, 4), segments=4), _Scalar((4,), segments=4)),
    16384: (_Scalar((8, 8, 8, 4), segments=8), _Scalar((8,), segments=8)),
}
_COMPLEX = {
    64: (_Scalar((4, 4, 4), 64),),
    128: (_Scalar((4, 4, 4, 2), 64),),
    256: (_Scalar((4, 4, 4, 4), 64),),
    512: (_Scalar((4, 4, 4, 4, 2), 128),),
    1024: (_Scalar((4, 4, 4, 4, 4)),),
    2048: (_Scalar((4, 4, 4, 4, 4), segments=2), _Scalar((2,), segments=2)),
    4096: (_Scalar((4, 4, 4, 4, 4), segments=4), _Scalar((4,), segments=4)),
    8192: (_Scalar((4, 4, 4, 4, 4), segments=8), _Scalar((4, 2), segments=8)),
    16384: (_Scalar((4, 4, 4, 4, 4), segments=16), _Scalar((4, 4), segments=16)),
}
_SCALAR = {"float32": _REAL, "complex64": _COMPLEX}


def served_sizes(dtype: str) -> tuple[int, ...]:
    """Transform sizes that the kernels serve for data of a dtype.

    Example:
        >>> served_sizes("float32"), served_sizes("float64")
        ((64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384), ())
    """
    return tuple(_UNMERGED | _TENSOR if dtype == "bfloat16" else _SCALAR.get(dtype, ()))


def side_by_side(size: int) -> int:
    """How many vectors of N stand in a row of the kernels.

    Example:
        >>> side_by_side(64), side_by_side(1024)
        (4, 1)
    """
    return max(1, _LEAST_COLUMNS // size)


def merges_itself(size: int) -> bool:
    """Whether the bfloat16 kernel takes the factors of radix 2 in the place of fragments."""
    return size in _UNMERGED


def unmerged_plan(size: int, rows: int, *, increasing: bool, tied: bool) -> tensor_layout.Plan:
    """The launch of the bfloat16 kernel for a size that it merges itself.

    Args:
        size: N.
        rows: of vectors side by side.
        increasing: whether factors of small stride come first.
        tied: whether they are tied.
    """
    launch = dataclasses.replace(_TENSOR[512][0], radices=_UNMERGED[size])
    columns = size * side_by_side(size)
    plan = _tensor_plan(columns, rows, launch, 1, increasing=increasing)
    return dataclasses.replace(plan, unmerged=tensor_layout.Unmerged(size, increasing, tied))


def tensor_radices(size: int) -> tuple[int, ...]:
    """Radices of the merged factors of the bfloat16 kernel, by increasing stride."""
    return tuple(radix for launch in _TENSOR[size] for radix in launch.radices)


def strides(radices: tuple[int, ...], first: int) -> list[int]:
    """Strides of neighbouring factors, the first one given."""
    return [first * math.prod(radices[:index]) for index in range(len(radices))]


def tensor_plans(size: int, rows: int, *, increasing: bool) -> list[tensor_layout.Plan]:
    """The launches of the bfloat16 kernel for N and a number of rows, in their order."""
    plans, stride = [], 1
    for launch in _TENSOR[size]:
        plans.append(_tensor_plan(size, rows, launch, stride, increasing=increasing))
        stride *= math.prod(launch.radices)
    return _with_weights(plans if increasing else plans[::-1])


def two_factor_plan(radices: tuple[int, int], rows: int, *, increasing: bool) -> tensor_layout.Plan:
    """One launch of two merged factors, radices by increasing stride; N is their product."""
    size = math.prod(radices)
    launch = dataclasses.replace(_TENSOR[size][0], radices=radices)
    return _tensor_plan(size, rows, launch, 1, increasing=increasing)


def _tensor_plan(
    size: int, rows: int, launch: _Tensor, stride: int, *, increasing: bool
) -> tensor_layout.Plan:
    factors = tuple(map(Factor, launch.radices, strides(launch.radices, stride)))
    # a chain that ends with its large strides needs one more column buffer in a cluster
    slots = launch.slots if increasing or launch.cluster_size == 1 else 3
    plan = tensor_layout.Plan(
        size,
        rows,
        factors if increasing else factors[::-1],
        launch.cluster_size,
        launch.clusters,
        launch.segments,
        launch.planes,
        slots=slots,
        warps=launch.warps,
        staged=launch.staged,
    )
    return dataclasses.replace(plan, clusters=min(plan.clusters, plan.tiles * plan.segments))


def _with_weights(plans: Sequence[tensor_layout.Plan]) -> list[tensor_layout.Plan]:
    """The plans with their fragments in one array, in the order of the launches."""
    placed, start = [], 0
    for plan in plans:
        placed.append(dataclasses.replace(plan, weights_at=start))
        start += sum(factor.weight_bytes(plan.size) for factor in plan.factors)
    return placed


def scalar_plans(
    size: int, rows: int, dtype: str, *, increasing: bool
) -> list[scalar_program.Plan]:
    """The same of the float32 or complex64 kernel, for rows of vectors side by side."""
    plans, stride = [], 1
    for launch in _SCALAR[dtype][size]:
        passes = tuple(map(Pass, launch.radices, strides(launch.radices, stride)))
        stride *= math.prod(launch.radices)
        plan = scalar_program.Plan(
            size * side_by_side(size),
            rows,
            passes if increasing else passes[::-1],
            launch.team,
            increasing,
            size,
            parts=2 if dtype == "complex64" else 1,
            blocks=MULTIPROCESSORS // launch.segments * launch.segments,
            segments=launch.segments,
            pipelined=launch.pipelined or dtype == "complex64",
        )
        blocks = min(plan.blocks, -(-plan.tiles // plan.teams) * plan.segments)
        plans.append(dataclasses.replace(plan, blocks=blocks))
    return plans if increasing else plans[::-1]

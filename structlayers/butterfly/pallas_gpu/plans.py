"""Which kernel serves a size, and with which sizes of its own. Imports no Pallas.

Measured choices, jax 0.11.2 on one H200; what was tried beside them stands in kernels.md.
"""

import dataclasses

from structlayers.butterfly.pallas_gpu import scalar_program, tensor_program
from structlayers.butterfly.pallas_gpu.scalar_program import Pass
from structlayers.butterfly.pallas_gpu.tensor_program import Factor

# of an H100 or H200 (SXM); clusters of 4 and 8 find room on 128 of them
_MULTIPROCESSORS = 132


@dataclasses.dataclass(frozen=True)
class _Tensor:
    radices: tuple[int, ...]
    clusters: int
    cluster_size: int = 1
    warps: int = 16
    staged: bool = True


@dataclasses.dataclass(frozen=True)
class _Scalar:
    radices: tuple[int, ...]
    team: int


_TENSOR = {
    512: _Tensor((16, 32), 2 * _MULTIPROCESSORS, warps=8),
    1024: _Tensor((32, 32), _MULTIPROCESSORS),
    2048: _Tensor((16, 16, 8), _MULTIPROCESSORS // 2, cluster_size=2, staged=False),
    4096: _Tensor((16, 16, 16), 32, cluster_size=4, staged=False),
    8192: _Tensor((16, 16, 32), 16, cluster_size=8, staged=False),
}
_REAL = {
    256: _Scalar((4, 4, 4, 4), 64),
    512: _Scalar((8, 8, 8), 64),
    1024: _Scalar((8, 8, 4, 4), 128),
    2048: _Scalar((8, 8, 8, 4), 256),
}
_COMPLEX = {
    256: _Scalar((4, 4, 4, 4), 64),
    512: _Scalar((4, 4, 4, 4, 2), 128),
    1024: _Scalar((4, 4, 4, 4, 4), 256),
}
_SCALAR = {"float32": _REAL, "complex64": _COMPLEX}


def served_sizes(dtype: str) -> tuple[int, ...]:
    """Transform sizes that the kernels serve for data of a dtype.

    Example:
        >>> served_sizes("float32"), served_sizes("float64")
        ((256, 512, 1024, 2048), ())
    """
    return tuple(_TENSOR if dtype == "bfloat16" else _SCALAR.get(dtype, ()))


def tensor_radices(size: int) -> tuple[int, ...]:
    """Radices of the merged factors of the bfloat16 kernel, by increasing stride."""
    return _TENSOR[size].radices


def _strides(radices: tuple[int, ...]) -> list[int]:
    strides = [1]
    for radix in radices[:-1]:
        strides.append(strides[-1] * radix)
    return strides


def tensor_plan(size: int, rows: int, *, increasing: bool) -> tensor_program.Plan:
    """The plan of the bfloat16 kernel for N and a number of rows."""
    choice = _TENSOR[size]
    factors = tuple(map(Factor, choice.radices, _strides(choice.radices)))
    plan = tensor_program.Plan(
        size,
        rows,
        factors if increasing else factors[::-1],
        choice.cluster_size,
        choice.clusters,
        slots=4 if increasing or choice.cluster_size == 1 else 3,
        warps=choice.warps,
        staged=choice.staged,
    )
    return dataclasses.replace(plan, clusters=min(plan.clusters, plan.tiles))


def scalar_plan(size: int, rows: int, dtype: str, *, increasing: bool) -> scalar_program.Plan:
    """The plan of the float32 or complex64 kernel for N and a number of rows."""
    choice = _SCALAR[dtype][size]
    passes = tuple(map(Pass, choice.radices, _strides(choice.radices)))
    plan = scalar_program.Plan(
        size,
        rows,
        passes if increasing else passes[::-1],
        choice.team,
        increasing,
        parts=2 if dtype == "complex64" else 1,
        blocks=_MULTIPROCESSORS,
    )
    return dataclasses.replace(plan, blocks=min(plan.blocks, -(-plan.tiles // plan.teams)))

"""What kernels need from the versions of Pallas, in one place.

Pallas is imported within the functions: importing the library must not import it. The functions
of TPU kernels begin with ``tpu_``; Mosaic GPU has its place in `_core.simt.mosaic`.
"""

import contextlib
import functools
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import jax

from structlayers._core.context import bound
from structlayers._core.dispatch import current_platform

_tpu_interpreter: ContextVar[Any] = ContextVar("tpu_interpreter", default=None)

# Of TPU v4 and of v5e and v6e: the ends of the generations that are compiled for.
_SMALLEST_TPU_VMEM, _LARGEST_TPU_VMEM = 16 << 20, 128 << 20


@contextlib.contextmanager
def interpret_tpu_kernels(*, plain: bool = False) -> Generator[None]:
    """Runs the library's TPU kernels in an interpreter, on any platform.

    By default in the one that plays a TPU: memory that was not written reads as NaN, transfers
    happen as late as they may, and races between them and accesses are found (`tpu_races`). It
    works by callbacks, which cannot be partitioned. It acts while a function is traced; JAX does
    not key its caches on it.

    Args:
        plain: the interpreter that turns kernels into loops of XLA, which can be partitioned.

    Example:
        >>> with interpret_tpu_kernels():
        ...     tpu_kernels_run()
        True
    """
    from jax.experimental.pallas import tpu as pltpu

    playing = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    with bound(_tpu_interpreter, True if plain else playing):
        yield


def tpu_interpreter() -> Any:
    """What `pl.pallas_call` of a TPU kernel takes as ``interpret``; False on a TPU."""
    return _tpu_interpreter.get() or False


def tpu_kernels_can_be_partitioned() -> bool:
    """Whether a kernel may stand inside a partitioning rule: not with callbacks in it."""
    return _tpu_interpreter.get() in (None, True)


def tpu_kernels_run(platform: str | None = None) -> bool:
    """Whether TPU kernels can run: on a TPU, or anywhere within `interpret_tpu_kernels`.

    Args:
        platform: "cpu", "gpu" or "tpu"; None is the current one.
    """
    return (platform or current_platform()) == "tpu" or _tpu_interpreter.get() is not None


def tpu_races() -> bool:
    """Whether the interpreter has seen a race in the last kernel that it ran."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    races = interpret_pallas_call.races
    return bool(races is not None and races.races_found)


def tpu_vmem_bytes() -> int:
    """VMEM of the TPU that is traced for.

    Without one it is the smallest, for the interpreter; the largest where a TPU is only assumed
    (`assume_platform`), so that nothing is refused that some TPU can serve.
    """
    info = _tpu_info()
    if info is not None:
        return info.vmem_capacity_bytes
    return _LARGEST_TPU_VMEM if current_platform() == "tpu" else _SMALLEST_TPU_VMEM


def tpu_matrix_width() -> int:
    """Columns of the matrix unit of the TPU that is traced for; 128 where there is none."""
    info = _tpu_info()
    return 128 if info is None else info.mxu_column_size


def _tpu_info() -> Any:
    if current_platform() != "tpu":
        return None
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.get_tpu_info() if pltpu.is_tpu_device() else None


def tpu_whole(shape: Sequence[int], index_map: Any) -> Any:
    """A block that stays in VMEM over many steps of the grid: one buffer, not two."""
    from jax.experimental import pallas as pl

    return pl.BlockSpec(tuple(shape), index_map, pipeline_mode=pl.Buffered(1))


@functools.cache
def tpu_compiler_params(
    semantics: tuple[Literal["parallel", "arbitrary"], ...], vmem_bytes: int
) -> Any:
    """Compiler parameters of a TPU kernel.

    Args:
        semantics: "parallel" or "arbitrary" for each axis of the grid.
        vmem_bytes: what the kernel may take.
    """
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem_bytes)


def gpu_compute_capability() -> str | None:
    """Compute capability of the GPU at hand, "9.0" for Hopper; None without one."""
    if jax.default_backend() != "gpu":
        return None
    return getattr(jax.devices()[0], "compute_capability", None) or "unknown"


def require_hopper(platform: str) -> None:
    """Refuses what is no Hopper GPU; on a machine without a GPU, programs may be lowered for one.

    Raises:
        NotImplementedError: the platform is another, or the GPU at hand.
    """
    if platform != "gpu":
        raise NotImplementedError(f"it is for Hopper GPUs, this is {platform}")
    capability = gpu_compute_capability()
    if capability not in (None, "9.0"):
        raise NotImplementedError(
            f"it is for Hopper GPUs, compute capability 9.0; this one has {capability}"
        )

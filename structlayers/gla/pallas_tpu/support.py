"""What the TPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

from typing import Any

from structlayers._core.pallas import tpu_kernels_run, tpu_vmem_bytes
from structlayers.gla.pallas_tpu.memory import plan

_DTYPES = ("float32", "bfloat16")


def check(
    q: Any,
    k: Any,
    v: Any,
    log_gate: Any,
    log_value_gate: Any,
    initial_state: Any,
    resets: Any,
    packing: Any,
    *,
    platform: str,
    chunk_size: int,
    **static: Any,
) -> None:
    """Whether the kernels serve `gated_linear_attention`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    del log_gate, initial_state, resets, static
    if not tpu_kernels_run(platform):
        raise NotImplementedError(f"it is for TPU, this is {platform}")
    if q.dtype.name not in _DTYPES:
        raise NotImplementedError(f"it takes {', '.join(_DTYPES)}, not {q.dtype.name}")
    if log_value_gate is not None:
        raise NotImplementedError("it knows no log_value_gate of V channels")
    if packing is not None:
        raise NotImplementedError("it knows no states of packed sequences")
    if 0 in q.shape or 0 in v.shape:
        raise NotImplementedError(f"nothing to do for q {q.shape} and v {v.shape}")
    *_, time, groups, key = k.shape
    shared = q.shape[-2] // groups
    plan(time, shared, key, v.shape[-1], q.dtype.itemsize, chunk_size, tpu_vmem_bytes())

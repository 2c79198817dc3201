"""What the GPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

from typing import Any

from structlayers._core.pallas import gpu_compute_capability

_KEYS = (64, 128, 256)
_VALUES = 64
# Buffers of the gradient kernel for larger K exceed shared memory: those gradients are XLA's.
LARGEST_GRADIENT_KEY = 128


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
    **static: Any,
) -> None:
    """Whether the kernels serve `gated_linear_attention`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    del log_gate, initial_state, resets, static
    if platform != "gpu":
        raise NotImplementedError(f"it is for Hopper GPUs, this is {platform}")
    capability = gpu_compute_capability()
    if capability not in (None, "9.0"):
        raise NotImplementedError(
            f"it is for Hopper GPUs, compute capability 9.0; this one has {capability}"
        )
    if q.dtype.name != "bfloat16":
        raise NotImplementedError(f"it takes bfloat16, not {q.dtype.name}")
    if log_value_gate is not None:
        raise NotImplementedError("it knows no log_value_gate of V channels")
    if packing is not None:
        raise NotImplementedError("it knows no cu_seqlens; take segment_ids")
    key, value = k.shape[-1], v.shape[-1]
    if key not in _KEYS or value % _VALUES:
        raise NotImplementedError(
            f"it takes K in {_KEYS} and V a multiple of {_VALUES}, not K = {key} and V = {value}"
        )
    if 0 in q.shape:
        raise NotImplementedError(f"nothing to do for q {q.shape}")

"""What the GPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

import math
from typing import Any

from structlayers._core.pallas import require_hopper

_KEYS = (64, 128, 256)
_VALUES = 64
# `None` takes the kernels where padding makes states at most so many times as large: at sizes that
# fit they are 3 to 14 times as fast as XLA's chunks (kernels.md); padded ones are not measured.
_MOST_PADDING = 4
# Buffers of the gradient kernel for larger K exceed shared memory: it takes their halves as heads.
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
    require_hopper(platform)
    if q.dtype.name != "bfloat16":
        raise NotImplementedError(f"it takes bfloat16, not {q.dtype.name}")
    if log_value_gate is not None:
        raise NotImplementedError("it knows no log_value_gate of V channels")
    if packing is not None:
        raise NotImplementedError("it knows no states of packed sequences")
    if k.shape[-1] > _KEYS[-1]:
        raise NotImplementedError(f"it takes K up to {_KEYS[-1]}, not K = {k.shape[-1]}")
    if 0 in q.shape or 0 in v.shape:
        raise NotImplementedError(f"nothing to do for q {q.shape} and v {v.shape}")


def padded_sizes(key: int, value: int) -> tuple[int, int]:
    """K and V that the kernels have for these, of which the rest is zeros.

    Example:
        >>> padded_sizes(48, 128), padded_sizes(128, 200)
        ((64, 128), (128, 256))
    """
    return min(size for size in _KEYS if size >= key), -(-value // _VALUES) * _VALUES


def padding_pays(key: int, value: int) -> bool:
    """Whether the kernels are taken by choice at these sizes."""
    if not 0 < key <= _KEYS[-1] or value < 1:
        return False
    return math.prod(padded_sizes(key, value)) <= _MOST_PADDING * key * value

"""What the decode kernel serves, from shapes and dtypes alone; imports no Pallas."""

import math
from collections.abc import Sequence
from typing import Any

from structlayers._core.pallas import require_hopper
from structlayers._core.partitioning import varying_axes
from structlayers.gla.pallas_gpu.step_plan import MOST_QUERIES, tile_columns


def check_step(
    q: Any,
    k: Any,
    v: Any,
    log_gate: Any,
    log_value_gate: Any,
    state: Any,
    *,
    platform: str,
    **static: Any,
) -> None:
    """Whether the kernel serves `gated_linear_attention_step`.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    if log_value_gate is not None:
        raise NotImplementedError("it knows no gates of V channels")
    if log_gate is None or log_gate.shape[-1] != k.shape[-1]:
        found = "none" if log_gate is None else f"shape {log_gate.shape}"
        raise NotImplementedError(f"it takes log gates of K channels, {k.shape}, got {found}")
    _check((q, k, v, log_gate, state), state, platform)


def check_decode(
    q: Any,
    k: Any,
    v: Any,
    gate_logits: Any,
    state: Any,
    output_gate: Any,
    norm_scale: Any,
    *,
    platform: str,
    **static: Any,
) -> None:
    """Whether the kernel serves `gated_linear_attention_decode`.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    _check((q, k, v, gate_logits, state, output_gate, norm_scale), state, platform)


def _check(operands: Sequence[Any], state: Any, platform: str) -> None:
    require_hopper(platform)
    q, k, *_ = operands
    axes = varying_axes(*operands)
    if axes:
        # JAX has no references to arrays that vary over the mesh, and the kernel writes to one
        raise NotImplementedError(
            f"its state varies over axes of the mesh, {', '.join(sorted(axes))}: call it with "
            "jax.shard_map(..., check_vma=False), or under jit with sharded arrays"
        )
    if q.dtype.name not in ("bfloat16", "float32"):
        raise NotImplementedError(f"it takes bfloat16 and float32, not {q.dtype.name}")
    if 0 in state.shape:
        raise NotImplementedError(f"state is empty, of shape {state.shape}")
    queries = q.shape[-2] // k.shape[-2]
    if queries > MOST_QUERIES:
        raise NotImplementedError(
            f"it serves up to {MOST_QUERIES} query heads for a key head, not {queries}"
        )
    key, value = state.shape[-2:]
    if not tile_columns(queries, key, value):
        raise NotImplementedError(
            "it serves V of one to eight times 64, 128 (two query heads at most) or 32, with K a "
            f"multiple of 8, 4 or 16; not K, V = {key}, {value} and {queries} query heads"
        )
    if math.prod(state.shape) * 4 >= 2**31:
        raise NotImplementedError(f"it takes states below 2 GiB, not {state.shape} in float32")

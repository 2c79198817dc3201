"""Signals in bfloat16 for the implementations that read and write them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from structlayers._core.dispatch import Dispatcher

_NARROW = ("pallas_gpu", "pallas_tpu")


def dispatch(
    dispatcher: Dispatcher,
    *signals: jax.Array,
    dtype: DTypeLike,
    implementation: str | None,
    **static: Any,
) -> jax.Array:
    """Calls the chosen implementation with float32 signals, or bfloat16 ones where it takes them.

    In precision "bf16" operands are rounded to bfloat16 by every implementation: signals that come
    and go in bfloat16 need not be widened in memory.

    Args:
        dispatcher: of the op.
        *signals: in the dtype that products are computed in.
        dtype: of the user's signals.
        implementation: a name, or None.
        **static: the op's keywords, `precision` among them.

    Returns:
        The result in the dtype that products are computed in.
    """
    narrow = signals
    if static["precision"] == "bf16" and jnp.dtype(dtype) == jnp.bfloat16:
        narrow = tuple(x.astype(jnp.bfloat16) for x in signals)
    name = dispatcher.choose(*narrow, implementation=implementation, **static).name
    chosen = narrow if name in _NARROW else signals
    return dispatcher(*chosen, implementation=name, **static).astype(signals[0].dtype)

"""Rules of `jax.vmap` for kernels that take one set of operands at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def map_calls(
    run: Callable[..., Any], size: int, mapped: Sequence[bool], operands: Sequence[jax.Array]
) -> Any:
    """Results of `size` calls, one after another, stacked in front; nothing is repeated in memory.

    Args:
        run: a function of arrays.
        size: of the mapped axis.
        mapped: for each operand, whether its first axis is mapped; the others go to every call.
        operands: the arrays.

    Example:
        >>> map_calls(jnp.add, 2, (True, False), (jnp.array([1, 2]), jnp.array(10))).tolist()
        [11, 12]
    """

    def call(index: jax.Array) -> Any:
        return run(*(x[index] if m else x for x, m in zip(operands, mapped, strict=True)))

    return jax.lax.map(call, jnp.arange(size))

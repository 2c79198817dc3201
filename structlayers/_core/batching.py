"""Rules of `jax.vmap` for kernels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


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


def merge_batches(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of pytrees whose arrays lead with a batch axis, which takes in the mapped ones.

    Args:
        call: treats entries of the batch independently, and returns arrays that lead with it.

    Example:
        >>> x = jnp.arange(4.0).reshape(2, 1, 2)
        >>> jax.vmap(merge_batches(lambda x: x.sum(-1)))(x).tolist()
        [[1.0], [5.0]]
    """
    run = custom_vmap(call)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        merged = [
            (x if on else jnp.broadcast_to(x, (size, *x.shape)))
            for x, on in zip(leaves, jax.tree.leaves(tuple(mapped)), strict=True)
        ]
        merged = [x.reshape(-1, *x.shape[2:]) for x in merged]
        out = run(*jax.tree.unflatten(tree, merged))
        out = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda x: True, out)

    return run

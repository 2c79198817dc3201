"""What is timed: the op alone, or the op and the gradients of all its floating-point inputs."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

type Mode = Literal["forward", "forward_backward"]


def differentiable(tree: Any) -> bool:
    """Whether every array is floating point or complex (and there is one)."""
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)


def with_gradients(fn: Callable[..., Any]) -> Callable[..., tuple[Any, list[jax.Array]]]:
    """Function of (*arrays, cotangent) that returns the result and the gradients.

    Args:
        fn: called as `fn(*arrays)`; its result holds floating-point or complex arrays only.

    Returns:
        A function whose last argument is the cotangent, shaped as the result; it gives back
        `(result, gradients)` with one gradient for each floating-point or complex array, in the
        order of `jax.tree.leaves`. Integers are held fixed.
    """

    def run(*arguments: Any) -> tuple[Any, list[jax.Array]]:
        *arrays, cotangent = arguments
        leaves, structure = jax.tree.flatten(tuple(arrays))
        inexact = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

        def of_inexact(*values: jax.Array) -> Any:
            merged = list(leaves)
            for i, value in zip(inexact, values, strict=True):
                merged[i] = value
            return fn(*structure.unflatten(merged))

        result, pullback = jax.vjp(of_inexact, *[leaves[i] for i in inexact])
        return result, list(pullback(cotangent))

    return run

"""Gradients in less memory, where it takes more launches of kernels."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

from structlayers._core.context import bound

_asked: ContextVar[bool] = ContextVar("low_memory", default=False)


@contextlib.contextmanager
def low_memory() -> Generator[None]:
    """Asks for gradients of long sequences in less memory, with the same bits.

    The kernels for Hopper go back through sequences of 4096 tokens or more (of segments, where they
    cut sequences) in four parts, each of which writes gradients of states where those of the part
    before were, so that a quarter of them is held at a time. Other implementations and shorter
    sequences are as they are outside.

    Predicted, not measured: at K = 128, V = 256 temporaries of forward and backward pass of 1.27
    times the bytes of a bfloat16 state every 64 tokens, where they are 1.63 outside; at K = 256,
    V = 512 .93, where they are 1.29. What the launches cost is not timed yet. It acts while a
    function is traced.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from structlayers.gla import gated_linear_attention
        >>> q = k = v = jnp.ones((1, 5, 2, 8))
        >>> with low_memory():
        ...     gradient = jax.grad(lambda q: gated_linear_attention(q, k, v, -q).sum())(q)
        >>> gradient.shape
        (1, 5, 2, 8)
    """
    with bound(_asked, True):
        yield


def is_low_memory() -> bool:
    """Whether it is asked for here."""
    return _asked.get()

"""Results that do not depend on what else is in a batch, where speed would have them differ."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

from structlayers._core.context import bound

_asked: ContextVar[bool] = ContextVar("batch_invariant", default=False)


@contextlib.contextmanager
def batch_invariant() -> Generator[None]:
    """Asks for the same bits whatever the batch size, and of whole chunks whatever follows them.

    The kernels for Hopper cut sequences in segments where there are few of them, so that sums of
    states have another order than in a large batch. Inside, no sequence is cut: a long one of few
    heads then leaves most of the card idle, and where batch and heads fill it nothing changes. The
    kernels for TPUs never cut; "xla" multiplies by libraries, which choose by size, and promises
    nothing. It acts while a function is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from structlayers.gla import gated_linear_attention
        >>> q = k = v = jnp.ones((1, 5, 2, 8))
        >>> with batch_invariant():
        ...     out = gated_linear_attention(q, k, v, -q)
        >>> out.shape
        (1, 5, 2, 8)
    """
    with bound(_asked, True):
        yield


def is_batch_invariant() -> bool:
    """Whether it is asked for here."""
    return _asked.get()

"""Equivariance of a function under a group action."""

from collections.abc import Callable, Sequence
from typing import Any

from structlayers.testing.errors import assert_close


def assert_equivariant(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    act_on_inputs: Callable[..., Sequence[Any]],
    act_on_output: Callable[[Any], Any],
    bound: float,
    scale: float | None = None,
    name: str = "equivariance",
) -> None:
    """Asserts that acting before a function equals acting after it.

    .. math:: f(g . x) = g . f(x)

    Args:
        fn: the function, of positional arguments.
        args: its arguments, pytrees of arrays.
        act_on_inputs: the group element on the inputs: takes all of `args`, returns as many.
        act_on_output: the same group element on the output; the identity tests invariance.
        bound: largest `error_ratio` allowed, with f(g . x) as the value.
        scale: as in `error_ratio`.
        name: what is tested, for the message.

    Raises:
        AssertionError: the two sides differ by more than `bound`.

    Example:
        >>> import jax.numpy as jnp
        >>> assert_equivariant(
        ...     jnp.cumsum, (jnp.arange(3.0),), bound=1e-6,
        ...     act_on_inputs=lambda x: (2 * x,), act_on_output=lambda y: 2 * y,
        ... )
    """
    acted_before = fn(*act_on_inputs(*args))
    acted_after = act_on_output(fn(*args))
    assert_close(name, acted_before, acted_after, bound, scale=scale)

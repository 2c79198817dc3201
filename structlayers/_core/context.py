"""Context variables that have another value inside a `with`."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar


@contextlib.contextmanager
def bound[T](variable: ContextVar[T], value: T) -> Generator[None]:
    """Gives a context variable a value inside the `with`, and the former one after it.

    Args:
        variable: seen by this thread and what it awaits.
        value: inside.

    Example:
        >>> width = ContextVar("width", default=1)
        >>> with bound(width, 2):
        ...     print(width.get())
        2
        >>> width.get()
        1
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)

"""Argument checks that the families share; each error names the argument, its value, the want."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def is_known(array: ArrayLike) -> bool:
    """Whether the values of an array can be read here: it is not traced, nor on other hosts.

    Example:
        >>> is_known(jnp.ones(2)), jax.jit(lambda x: jnp.array(is_known(x)))(jnp.ones(2)).item()
        (True, False)
    """
    if isinstance(array, jax.Array):
        return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable
    return True


def require_integer(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Raises:
        TypeError: not an integer (bool does not count as one).

    Example:
        >>> require_integer("num_blocks", 2)
        2
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def require_positive(name: str, value: Any) -> int:
    """Returns `value` as an int >= 1.

    Raises:
        TypeError: not an integer.
        ValueError: smaller than 1.

    Example:
        >>> require_positive("in_features", 8)
        8
    """
    value = require_integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def require_choice[T](name: str, value: T, choices: Sequence[T]) -> T:
    """Returns `value`, one of `choices`.

    Raises:
        ValueError: not one of them.

    Example:
        >>> require_choice("init", "haar", ("haar", "identity"))
        'haar'
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def require_shape(name: str, array: Any, expected: Sequence[int | str]) -> None:
    """Checks the shape of an array or `jax.ShapeDtypeStruct` against sizes and letters.

    Args:
        name: the argument's name.
        array: anything with a ``shape``.
        expected: an int must match; a string is a free size, named in the message.

    Raises:
        ValueError: another rank or size.

    Example:
        >>> import jax
        >>> require_shape("x", jax.ShapeDtypeStruct((5, 8), "float32"), ("B", 8))
    """
    shape = tuple(array.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or size == want for size, want in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        raise ValueError(f"{name} must have shape ({wanted}), got {shape}")


def require_inexact(name: str, array: Any) -> None:
    """Checks that an array is real or complex floating point.

    Raises:
        TypeError: integer or bool.

    Example:
        >>> require_inexact("x", jnp.zeros(3))
    """
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(f"{name} must be floating point or complex, got {array.dtype}")


def require_real(name: str, array: Any) -> None:
    """Checks that an array is real floating point.

    Raises:
        TypeError: complex, integer or bool.

    Example:
        >>> require_real("kernel", jnp.zeros(3))
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be real floating point, got {array.dtype}")


def is_power_of_two(value: int) -> bool:
    """Whether `value` is 1, 2, 4, 8, ...

    Example:
        >>> is_power_of_two(8), is_power_of_two(6), is_power_of_two(0)
        (True, False, False)
    """
    return value >= 1 and value & (value - 1) == 0


def require_power_of_two(name: str, value: Any) -> int:
    """Returns `value` as an int that is a power of two.

    Raises:
        TypeError: not an integer.
        ValueError: not a power of two.

    Example:
        >>> require_power_of_two("transform size", 8)
        8
    """
    value = require_positive(name, value)
    if not is_power_of_two(value):
        raise ValueError(f"{name} must be a power of two, got {value}")
    return value


def next_power_of_two(value: int) -> int:
    """The smallest power of two >= `value`.

    Raises:
        ValueError: `value` smaller than 1.

    Example:
        >>> next_power_of_two(5), next_power_of_two(8)
        (8, 8)
    """
    return 1 << (require_positive("value", value) - 1).bit_length()


def log2_exact(value: int) -> int:
    """The exponent of a power of two.

    Raises:
        ValueError: not a power of two.

    Example:
        >>> log2_exact(1024)
        10
    """
    return require_power_of_two("value", value).bit_length() - 1

"""Products of signals with constant tables, in every precision, differentiable to any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from structlayers._core.dispatch import current_platform
from structlayers.equivariant.precision import TablePrecision, rounded_to_tf32


def apply_table(x: jax.Array, table: np.ndarray, precision: TablePrecision) -> jax.Array:
    """`x @ table` along the last axis.

    In the reduced precisions the derivative multiplies the transposed table in the same precision;
    there is reverse mode only.

    Args:
        x: `(..., K)`, float32 or float64.
        table: float64 `(K, M)`.
        precision: see `structlayers.equivariant.precision`.

    Returns:
        `(..., M)` in the dtype of x.
    """
    if isinstance(precision, lax.Precision):
        return _dot(x, jnp.asarray(table, x.dtype), precision)
    # rounded here, not by kernels of their own in every call
    parts = _parts(np.asarray(table, np.float32), precision)
    return _reduced(x, tuple(map(jnp.asarray, parts)), precision)


def _parts(table: np.ndarray, precision: str) -> tuple[np.ndarray, ...]:
    """The operands that a table is in products of a reduced precision."""
    if precision == "bf16":
        return (table.astype(jnp.bfloat16),)
    high = _round_table(table)
    return (high, _round_table(table - high)) if precision == "3xtf32" else (high,)


def _round_table(table: np.ndarray) -> np.ndarray:
    """What `round_to_tf32` makes of finite numbers."""
    return rounded_to_tf32(np.ascontiguousarray(table).view(np.int32)).view(np.float32)


def _dot(
    x: jax.Array, table: jax.Array, precision: lax.Precision, dtype: jnp.dtype | None = None
) -> jax.Array:
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, table, dimensions, precision, dtype or x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _reduced(x: jax.Array, table: tuple[jax.Array, ...], precision: str) -> jax.Array:
    if precision == "bf16":
        x, (rounded,) = x.astype(jnp.bfloat16), table
        if current_platform() == "cpu":
            x, rounded = x.astype(jnp.float32), rounded.astype(jnp.float32)
            return _dot(x, rounded, lax.Precision.HIGHEST)
        return _dot(x, rounded, lax.Precision.DEFAULT, jnp.dtype(jnp.float32))
    # tensor cores multiply operands that are already rounded exactly; others need true float32
    tensor_cores = current_platform() == "gpu"
    dot = functools.partial(
        _dot, precision=lax.Precision.DEFAULT if tensor_cores else lax.Precision.HIGHEST
    )
    high, (table_high, *rest) = round_to_tf32(x), table
    out = dot(high, table_high)
    if rest:
        low, (table_low,) = round_to_tf32(x - high), rest
        out = out + (dot(low, table_high) + dot(high, table_low))
    return out


def _reduced_forward(
    x: jax.Array, table: tuple[jax.Array, ...], precision: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _reduced(x, table, precision), table


def _reduced_backward(
    precision: str, table: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # tables are constants: nothing asks for their derivative
    gradient = _reduced(cotangent, tuple(part.T for part in table), precision)
    return gradient, tuple(map(jnp.zeros_like, table))


_reduced.defvjp(_reduced_forward, _reduced_backward)


def round_to_tf32(x: jax.Array) -> jax.Array:
    """The nearest float32 with 10 bits of mantissa, ties to even; infinities and NaN stay.

    Integer arithmetic on the bits, which no compiler simplifies away.

    Args:
        x: float32.

    Returns:
        float32.

    Example:
        >>> float(round_to_tf32(jnp.float32(1 + 2**-10 + 2**-12))) == 1 + 2**-10
        True
    """
    rounded = rounded_to_tf32(lax.bitcast_convert_type(x, jnp.int32))
    return jnp.where(jnp.isfinite(x), lax.bitcast_convert_type(rounded, jnp.float32), x)

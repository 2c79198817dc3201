"""Matmul precision and accumulation dtypes, stated once for all families."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

type PrecisionLike = str | jax.lax.Precision | None

_NAMES = {
    "default": jax.lax.Precision.DEFAULT,
    "high": jax.lax.Precision.HIGH,
    "highest": jax.lax.Precision.HIGHEST,
}


def canonicalize_precision(precision: PrecisionLike) -> jax.lax.Precision:
    """Turns what users pass as ``precision=`` into a `jax.lax.Precision`.

    It matters for float32 operands. On GPUs since Ampere, XLA's own default multiplies them as
    TF32, with 10 bits of mantissa and a relative error near 1e-3; on TPUs, as bfloat16. `HIGHEST`
    is true float32 on both. Structured products move more bytes than they multiply, so None means
    HIGHEST here: it costs little and keeps float32 what it says. bfloat16 and float16 operands
    are multiplied as they are whatever the precision.

    Args:
        precision: None, "default", "high", "highest" or a `jax.lax.Precision`.

    Returns:
        The precision; HIGHEST for None.

    Raises:
        ValueError: any other value.

    Example:
        >>> canonicalize_precision(None).name, canonicalize_precision("default").name
        ('HIGHEST', 'DEFAULT')
    """
    if precision is None:
        return jax.lax.Precision.HIGHEST
    if isinstance(precision, jax.lax.Precision):
        return precision
    if isinstance(precision, str) and precision in _NAMES:
        return _NAMES[precision]
    raise ValueError(
        f"precision must be None, {', '.join(map(repr, _NAMES))} or a jax.lax.Precision, "
        f"got {precision!r}"
    )


def accumulation_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype to sum products of `dtype` in: float32 for narrower floats, else unchanged.

    Example:
        >>> accumulation_dtype("bfloat16"), accumulation_dtype("complex64")
        (dtype('float32'), dtype('complex64'))
    """
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4:
        return np.dtype(np.float32)
    return dtype

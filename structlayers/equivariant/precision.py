"""How tables are multiplied: the words of `precision=` in this family.

- None, "highest": true float32 (float64 for float64 signals).
- "tf32": operands rounded to 10 bits of mantissa, sums in float32. On GPUs the tensor cores' own
  format; elsewhere operands are rounded and multiplied in float32, which gives the same errors.
- "3xtf32": each operand as a sum of two rounded ones and three products, nearly float32.
- "bf16": operands rounded to bfloat16, sums in float32. The format of the matrix units of GPUs and
  TPUs; on CPUs rounded and multiplied in float32.
- "default", "high" or a `jax.lax.Precision`: what XLA makes of it.

What multiplies no table, coefficient by coefficient, does so in float32 whatever the word.

Signals of bfloat16 and float16 are widened to float32 first, which is exact, and results rounded
once, whatever the word.
"""

from typing import Any

import jax
from jax.typing import DTypeLike

from structlayers._core.precision import PrecisionLike, canonicalize_precision

REDUCED = ("tf32", "3xtf32", "bf16")

type TablePrecision = str | jax.lax.Precision


def rounded_to_tf32(words: Any) -> Any:
    """Finite float32 numbers with 10 bits of mantissa, ties to even; words as they lie in memory.

    Args:
        words: int32, an array of NumPy's or JAX's, as is the result.
    """
    return (words + (words >> 13 & 1) + 0xFFF) & ~0x1FFF


def canonicalize_table_precision(precision: PrecisionLike, dtype: DTypeLike) -> TablePrecision:
    """One of `REDUCED`, or a `jax.lax.Precision`.

    Args:
        precision: what users pass as ``precision=``.
        dtype: of the signals.

    Returns:
        The word, or the precision of XLA's products.

    Raises:
        ValueError: an unknown word, or one of `REDUCED` for float64 signals.

    Example:
        >>> canonicalize_table_precision("tf32", "float32"), str(
        ...     canonicalize_table_precision(None, "float32"))
        ('tf32', 'HIGHEST')
    """
    if isinstance(precision, str) and precision in REDUCED:
        if jax.numpy.dtype(dtype).itemsize > 4:
            raise ValueError(f"precision {precision!r} is for float32 at most, got {dtype} signals")
        return precision
    try:
        return canonicalize_precision(precision)
    except ValueError:
        words = ", ".join(map(repr, ("default", "high", "highest", *REDUCED)))
        raise ValueError(
            f"precision must be None, {words} or a jax.lax.Precision, got {precision!r}"
        ) from None

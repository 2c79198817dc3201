"""Float32 as sums of bfloat16, whose products are one matrix product; imports no Pallas.

The matrix unit multiplies bfloat16 and adds up in float32. The parts of a matrix follow each other
along the axis that is contracted: with tables of few columns that costs no more passes than one
part alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Parts of an operand by precision: 8 bits of mantissa each.
PARTS: dict[str | lax.Precision, int] = {
    lax.Precision.HIGHEST: 3,
    lax.Precision.HIGH: 2,
    lax.Precision.DEFAULT: 1,
    "bf16": 1,
}

# By parts of an operand, pairs (part of the table, part of the values), small products first.
PAIRS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 0),),
    2: ((1, 0), (0, 1), (0, 0)),
    3: ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0)),
}


def stack_values(values: jax.Array, parts: int) -> jax.Array:
    """The parts of float32 `(depth, lanes)` as `stack_table` meets them, bfloat16."""
    if parts == 1:
        return values.astype(jnp.bfloat16)
    found = []
    for _ in range(parts - 1):
        rounded = _rounded(values)
        found.append(rounded.astype(jnp.bfloat16))
        values = values - rounded
    found.append(values.astype(jnp.bfloat16))
    return jnp.concatenate([found[part] for _, part in PAIRS[parts]], axis=0)


def _rounded(values: jax.Array) -> jax.Array:
    """The nearest bfloat16 as float32, by its bits: no compiler drops that as it may casts."""
    bits = lax.bitcast_convert_type(values, jnp.uint32)
    bits = (bits + jnp.uint32(0x8000)) & jnp.uint32(0xFFFF0000)
    return lax.bitcast_convert_type(bits, jnp.float32)


def stack_table(table: np.ndarray, parts: int) -> np.ndarray:
    """The parts of a float64 table `(rows, depth)` side by side, bfloat16.

    Example:
        >>> stack_table(np.full((1, 1), 1 + 2**-9), 2).astype(float).tolist()
        [[0.001953125, 1.0, 1.0]]
    """
    found, rest = [], table
    for _ in range(parts):
        part = rest.astype(np.float32).astype(jnp.bfloat16)
        found.append(part)
        rest = rest - part.astype(np.float64)
    return np.concatenate([found[part] for part, _ in PAIRS[parts]], axis=1)

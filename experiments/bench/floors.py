"""Floors: no version of an op runs much faster than its bytes and its operations allow.

Bytes, forward: every input read once, every result written once. Forward and backward: inputs and
cotangent read once, result and gradients (one per floating-point input, as large as it) written
once. Operations: `ArgSpec.operations` forward; three times that with the backward pass, which for
a product of two inputs repeats the forward's work once for each of them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.modes import Mode
from structlayers._core.arg_spec import ArgSpec
from structlayers._core.precision import PrecisionLike, canonicalize_precision

# Matmul rates measured as ceilings; "copy" is the one in bytes.
UNITS = ("bf16", "tf32", "float32", "int8")

# Words of float32 products that are not JAX's, and the unit they run on.
_WORDS = {"tf32": "tf32", "3xtf32": "tf32", "bf16": "bf16"}


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least time of a job on this device.

    Attributes:
        bytes: fewest bytes moved through memory.
        operations: operations of the best known algorithm.
        unit: which measured rate divides the operations; None where none is known.
        byte_seconds: bytes over the measured copy rate.
        operation_seconds: operations over the measured rate, or None.
    """

    bytes: int
    operations: int
    unit: str | None
    byte_seconds: float
    operation_seconds: float | None

    @property
    def seconds(self) -> float:
        """The larger of the two."""
        return max(self.byte_seconds, self.operation_seconds or 0.0)

    @property
    def bound(self) -> str:
        """Which of the two it is: "bytes" or "operations"."""
        return "bytes" if self.seconds == self.byte_seconds else "operations"


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of a pytree, packed (two int4 to a byte).

    Example:
        >>> bytes_of([jax.ShapeDtypeStruct((4, 8), "bfloat16"), jax.ShapeDtypeStruct((3,), bool)])
        67
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        dtype = jnp.dtype(leaf.dtype)
        bits = jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else 8 * dtype.itemsize
        total += -(-bits * leaf.size // 8)
    return total


def count_bytes(arrays: Any, static: Mapping[str, Any], result: Any, mode: Mode) -> int:
    """Fewest bytes of one call; the formula is in the module's docstring.

    Args:
        arrays: inputs, as arrays or `jax.ShapeDtypeStruct`.
        static: keyword arguments; arrays among them (index tables) are inputs too.
        result: what the forward call returns.
        mode: "forward" or "forward_backward".
    """
    tables = [leaf for leaf in jax.tree.leaves(dict(static)) if hasattr(leaf, "dtype")]
    total = bytes_of(arrays) + bytes_of(tables) + bytes_of(result)
    if mode == "forward":
        return total
    inexact = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return total + bytes_of(result) + bytes_of(inexact)


def compute_dtype(arrays: Any) -> jnp.dtype:
    """Dtype that names the row: of the first floating-point or complex array, else the first."""
    leaves = jax.tree.leaves(arrays)
    inexact = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.dtype((inexact or leaves)[0].dtype)


def precision_name(dtype: Any, precision: PrecisionLike) -> str:
    """Precision of the products: in float32 "highest", "high", "default" or a word; else "native".

    Example:
        >>> precision_name("float32", None), precision_name("bfloat16", None)
        ('highest', 'native')
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.complex64):
        return "native"
    if isinstance(precision, str) and precision in _WORDS:
        return precision
    return canonicalize_precision(precision).name.lower()


def unit_of(dtype: Any, precision: str, platform: str) -> str | None:
    """The matmul unit that such products run on.

    Args:
        dtype: of the operands.
        precision: as `precision_name` gives it.
        platform: "cpu", "gpu" or "tpu".

    Returns:
        One of `UNITS`; None where no measured rate applies (float64, wide integers).

    Example:
        >>> unit_of("float32", "default", "gpu"), unit_of("float32", "highest", "gpu")
        ('tf32', 'float32')
    """
    dtype = jnp.dtype(dtype)
    if dtype in (jnp.bfloat16, jnp.float16):
        return "bf16"
    if dtype in (jnp.float32, jnp.complex64):
        if platform == "cpu" or precision == "highest":
            return "float32"
        if precision in _WORDS:
            return _WORDS[precision]
        return "tf32" if platform == "gpu" else "bf16"
    if dtype in (jnp.int8, jnp.uint8):
        return "int8"
    return None


def compute_floor(
    spec: ArgSpec,
    result: Any,
    mode: Mode,
    precision: str,
    platform: str,
    ceilings: Mapping[str, float],
) -> Floor:
    """Floor of one spec on the device whose ceilings were measured.

    Args:
        spec: the shapes and the operation count.
        result: what the forward call returns, as shapes.
        mode: "forward" or "forward_backward".
        precision: as `precision_name` gives it.
        platform: "cpu", "gpu" or "tpu".
        ceilings: bytes/s under "copy", operations/s under the units; where there are none, the
            seconds are NaN.
    """
    num_bytes = count_bytes(spec.arrays, spec.static, result, mode)
    operations = spec.operations * (1 if mode == "forward" else 3)
    unit = unit_of(compute_dtype(spec.arrays), precision, platform)
    rate = ceilings.get(unit) if unit else None
    return Floor(
        num_bytes,
        operations,
        unit if rate else None,
        num_bytes / ceilings.get("copy", math.nan),
        operations / rate if rate else None,
    )

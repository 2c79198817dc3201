"""The oracle: the op's reference implementation in float64 on the CPU, whole or on some rows.

An op that has one implementation only is its own oracle: what is compared then is rounding.

Where the reference would take long, it is computed on evenly spaced rows, first and last among
them: entries of the first axis of the first input. For the backward pass the cotangent is zero
outside these rows on both sides, so that gradients of weights compare as well.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.loop import Arrays
from experiments.bench.modes import Mode, with_gradients
from structlayers.testing import error_ratio

# Operations of a reference that is computed whole: seconds on one core.
WHOLE = 10**9


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Float64 values of one call.

    Attributes:
        rows: rows of the first axis that were computed; None for all.
        total: number of rows there are (0 when all were computed).
        values: result, or (result, gradients), as NumPy arrays.
        gradient_rows: for each gradient, whether its first axis is the one of the rows.
        source: what computed the values, in words; empty for a reference implementation.
    """

    rows: np.ndarray | None
    total: int
    values: Any
    gradient_rows: tuple[bool, ...] = ()
    source: str = ""

    @property
    def scope(self) -> str:
        """What was compared, in words."""
        rows = "all rows" if self.rows is None else f"{len(self.rows)} of {self.total} rows"
        return f"{rows}, {self.source}" if self.source else rows

    def result_error(self, result: Any) -> float:
        """Largest error ratio over the arrays of a forward result."""
        reference = self.values[0] if self.gradient_rows else self.values
        return _largest(
            (self._cut(value), wanted)
            for value, wanted in zip(
                jax.tree.leaves(result), jax.tree.leaves(reference), strict=True
            )
        )

    def error(self, value: Any) -> float:
        """Largest error ratio over the result and, where there are some, the gradients."""
        if not self.gradient_rows:
            return self.result_error(value)
        result, gradients = value
        return max(
            self.result_error(result),
            _largest(
                (self._cut(gradient) if by_row else gradient, wanted)
                for gradient, wanted, by_row in zip(
                    gradients, self.values[1], self.gradient_rows, strict=True
                )
            ),
        )

    def _cut(self, value: Any) -> Any:
        return value if self.rows is None else value[self.rows]


def _largest(pairs: Any) -> float:
    return max((error_ratio(np.asarray(value), wanted) for value, wanted in pairs), default=0.0)


def _widen(leaf: Any) -> np.ndarray:
    """NumPy array; floating point as float64, complex as complex128."""
    array = np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return array.astype(np.complex128)
    return array.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else array


def choose_rows(arrays: Arrays, result: Any, operations: int) -> np.ndarray | None:
    """Rows to compute: None for all, else evenly spaced ones within the allowance.

    Args:
        arrays: inputs; the first axis of the first array holds the rows.
        result: shapes of the result.
        operations: operations of the whole call.

    Raises:
        NotImplementedError: too large to compute whole, and the result is not made of rows.

    Example:
        >>> x = jax.ShapeDtypeStruct((9, 4), "float32")
        >>> choose_rows((x,), x, 3 * WHOLE), choose_rows((x,), x, 0)
        (array([0, 4, 8]), None)
    """
    if operations <= WHOLE:
        return None
    first = jax.tree.leaves(arrays)[0]
    total = first.shape[0] if first.ndim else 0
    outputs = jax.tree.leaves(result)
    if total < 2 or any(out.shape[:1] != (total,) for out in outputs):
        raise NotImplementedError("the reference is too large here, and has no rows to choose from")
    count = max(2, total * WHOLE // operations)
    return np.unique(np.linspace(0, total - 1, int(count)).round().astype(int))


def mask_cotangent(cotangent: Any, rows: np.ndarray | None) -> Any:
    """The cotangent with zeros outside the rows; unchanged when all rows count."""
    if rows is None:
        return cotangent

    def mask(leaf: jax.Array) -> jax.Array:
        keep = jnp.zeros(leaf.shape[0], bool).at[rows].set(True)
        return jnp.where(keep.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(mask, cotangent)


def compute_oracle(
    reference: Callable[..., Any],
    arrays: Arrays,
    mode: Mode,
    rows: np.ndarray | None,
    cotangent: Any = None,
    source: str = "",
    row_arrays: tuple[int, ...] = (0,),
) -> Oracle:
    """Runs a reference in float64 on the CPU.

    Args:
        reference: the op's reference implementation, or for an op without one the op itself.
        arrays: inputs.
        mode: "forward" or "forward_backward".
        rows: as `choose_rows` gives them.
        cotangent: the one that the measured function gets, for "forward_backward".
        source: what the reference is, where it is no reference implementation.
        row_arrays: positions of the arrays whose first axis holds the rows.

    Returns:
        The `Oracle`.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(_widen, arrays))
    total = leaves[0].shape[0] if rows is not None else 0
    if rows is not None:
        leaves = [leaf[rows] if i in row_arrays else leaf for i, leaf in enumerate(leaves)]
    wide = structure.unflatten(leaves)

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        if mode == "forward":
            values = jax.jit(reference)(*wide)
        else:
            wide_cotangent = jax.tree.map(_widen, cotangent)
            if rows is not None:
                wide_cotangent = jax.tree.map(lambda leaf: leaf[rows], wide_cotangent)
            values = jax.jit(with_gradients(reference))(*wide, wide_cotangent)
        values = jax.tree.map(np.asarray, values)
    by_row = _gradient_rows(arrays, row_arrays) if mode == "forward_backward" else ()
    return Oracle(rows, total, values, by_row, source)


def _gradient_rows(arrays: Arrays, row_arrays: tuple[int, ...]) -> tuple[bool, ...]:
    """For each differentiable input whether it holds the rows."""
    leaves: Sequence[Any] = jax.tree.leaves(arrays)
    return tuple(
        index in row_arrays
        for index, leaf in enumerate(leaves)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    )

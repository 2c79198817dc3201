"""Argument checks that the structured products share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact, require_shape
from structlayers._core.operands import check_input, operand_dtypes

type Weights = dict[str, tuple[ArrayLike, tuple[int | str, ...]]]


def check_weights(weights: Weights) -> tuple[jax.Array, ...]:
    """Weights of one kind of matrix, each with an axis of S stacks in front and of one dtype.

    Args:
        weights: by name, the array and its shape without the stacks; equal letters are equal sizes.

    Returns:
        The arrays; where the first had no axis of stacks, with one of length 1.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape that does not fit, or an empty axis.
    """
    sizes: dict[str, int] = {}
    (_, (first, axes)), *_ = weights.items()
    stacked = jnp.ndim(first) == len(axes) + 1
    arrays = []
    for name, (value, axes) in weights.items():
        array = jnp.asarray(value)
        require_inexact(name, array)
        letters = ("S", *axes) if stacked else axes
        require_shape(name, array, [sizes.get(str(letter), letter) for letter in letters])
        if 0 in array.shape:
            raise ValueError(f"{name} must have no empty axis, got shape {array.shape}")
        named = zip(letters, array.shape, strict=True)
        sizes |= {letter: size for letter, size in named if isinstance(letter, str)}
        arrays.append(array if stacked else array[None])
    dtype = common_dtype(*arrays)
    return tuple(array.astype(dtype) for array in arrays)


def common_dtype(*arrays: jax.Array) -> np.dtype:
    """The widest dtype of some weights, float32 at least, complex if any is."""
    dtype = arrays[0].dtype
    for array in arrays:
        dtype = operand_dtypes(dtype, array.dtype)[1]
    return np.dtype(dtype)


def check_operands(
    x: ArrayLike, weights: tuple[jax.Array, ...], size: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The data, 1 to `size` features, and the weights, in the dtypes that `operand_dtypes` says."""
    x = check_input(x, size)
    data, weight = operand_dtypes(x.dtype, weights[0].dtype)
    return x.astype(data), tuple(array.astype(weight) for array in weights)

"""Argument checks that the operations of the family share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import is_known, require_choice, require_real
from structlayers.equivariant.grids import KINDS, GridLike, SphericalGrid
from structlayers.equivariant.wigner import require_degree


def check_lmax(lmax: int | None, largest: int) -> int:
    """The largest degree of a result: at most that of the product, which is the default.

    Raises:
        ValueError: negative, or more than the product has.
    """
    if lmax is None:
        return largest
    lmax = require_degree("lmax", lmax)
    if lmax > largest:
        raise ValueError(f"lmax must be at most {largest}, the degree of the product, got {lmax}")
    return lmax


def check_grid(grid: GridLike, degree: int, rule: str) -> GridLike:
    """A kind of grid, a grid that is exact to a degree, or None for the fewest points.

    Args:
        grid: as the user passes it.
        degree: T.
        rule: how T comes about, for the message.

    Raises:
        ValueError: an unknown kind, or a grid that is too small.
    """
    if grid is None:
        return None
    if not isinstance(grid, SphericalGrid):
        return require_choice("grid", grid, KINDS)
    if grid.degree < degree:
        raise ValueError(
            f"grid must be exact to degree T = {rule} = {degree}, "
            f"got one of {len(grid.weights)} points exact to {grid.degree}"
        )
    return grid


def check_weights(name: str, weights: ArrayLike, lmax: int, x: jax.Array) -> jax.Array:
    """Weights of degrees, `(..., lmax + 1)`, in the dtype of a widened signal.

    Raises:
        TypeError: not real floating point.
        ValueError: another last axis.
    """
    weights = jnp.asarray(weights)
    require_real(name, weights)
    if weights.ndim < 1 or weights.shape[-1] != lmax + 1:
        raise ValueError(
            f"{name} must have shape (..., {lmax + 1}), one weight for every degree 0 to {lmax}, "
            f"got {weights.shape}"
        )
    return weights.astype(x.dtype)


def to_rank(x: jax.Array, rank: int, keep: int = 1) -> jax.Array:
    """Axes of size 1 in front of the leading axes, up to a rank; `keep` axes at the end stay."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape) if keep <= x.ndim < rank else x


def check_leading(**arrays: jax.Array | jax.ShapeDtypeStruct | None) -> int:
    """The rank that arrays have together once their leading axes are broadcast.

    Raises:
        ValueError: leading axes that do not broadcast.
    """
    present = {name: array for name, array in arrays.items() if array is not None}
    shapes = [array.shape[:-1] for array in present.values()]
    try:
        return len(jnp.broadcast_shapes(*shapes)) + 1
    except ValueError:
        listed = ", ".join(f"{name} {array.shape}" for name, array in present.items())
        raise ValueError(f"leading axes must broadcast, got {listed}") from None


def scale_degrees(x: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Each degree times its weight; leading axes broadcast."""
    if weights is None:
        return x
    rank = check_leading(x=x, weights=weights)
    # pieces, as the gradient of a gather adds up by scatters, on a GPU in no fixed order
    pieces = [
        jnp.broadcast_to(weights[..., degree, None], (*weights.shape[:-1], 2 * degree + 1))
        for degree in range(weights.shape[-1])
    ]
    return to_rank(x, rank) * to_rank(jnp.concatenate(pieces, axis=-1), rank)


def check_triple(weights: Any, name: str = "weights") -> Sequence[ArrayLike | None]:
    """The three members of `weights=`, or three times None.

    Raises:
        TypeError: no tuple.
        ValueError: not three.
    """
    if weights is None:
        return (None, None, None)
    if not isinstance(weights, tuple | list):
        raise TypeError(f"{name} must be a tuple of three, got {type(weights).__name__}")
    if len(weights) != 3:
        raise ValueError(
            f"{name} must have three members, weights of the degrees of x, of y and of the result "
            f"or None for each, got {len(weights)}"
        )
    return weights


def check_indices(name: str, indices: ArrayLike, limit: int, shape: tuple[int, ...]) -> jax.Array:
    """Integers of a shape, from 0 to `limit - 1` as far as they can be read.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or known values out of range.
    """
    values = np.asarray(indices) if is_known(indices) else np.zeros(0)
    array = jnp.asarray(indices)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if values.size and not (values.min() >= 0 and values.max() < limit):
        raise ValueError(
            f"{name} must be from 0 to {limit - 1}, got {values.min()} to {values.max()}"
        )
    return array


def take_rows(array: jax.Array, indices: jax.Array) -> jax.Array:
    """Rows `array[indices]`; NaN where an index that could not be checked is out of range.

    Negative indices are out of range, too: nothing is clamped or wrapped around.

    Example:
        >>> take_rows(jnp.array([1.0, 2.0]), jnp.array([1, 2, -1])).tolist()
        [2.0, nan, nan]
    """
    return array.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

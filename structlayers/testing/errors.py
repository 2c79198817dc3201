"""Error ratios: how far an array is from its reference, relative to the reference's size."""

import math
from typing import Any

import jax
import numpy as np


def _rms(values: np.ndarray) -> float:
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    # Scaled first: the squares of large float64 values overflow.
    return largest * math.sqrt(float(np.mean(np.abs(values / largest) ** 2)))


def _float64(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    try:
        return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of numbers, got {value!r}") from error


def error_ratio(value: Any, reference: Any, *, scale: float | None = None) -> float:
    r"""Relative root-mean-square error, computed in float64.

    .. math:: \mathrm{rms}(\mathrm{reference} - \mathrm{value}) / \mathrm{rms}(\mathrm{reference})

    Args:
        value: array of any numeric dtype, real or complex.
        reference: array of the same shape.
        scale: what to divide by instead of rms(reference), for a reference that may vanish.

    Returns:
        The ratio. Any NaN or infinity on either side gives inf. With a zero divisor: 0 for equal
        arrays, else inf. Empty arrays give 0.

    Raises:
        ValueError: the shapes differ; nothing is broadcast.

    Example:
        >>> error_ratio([1.0, 2.0], [1.0, 2.0])
        0.0
        >>> round(error_ratio([1.1, 0.0], [1.0, 0.0]), 6)
        0.1
        >>> error_ratio([float("nan")], [1.0])
        inf
    """
    value, reference = _float64("value", value), _float64("reference", reference)
    if value.shape != reference.shape:
        raise ValueError(f"value has shape {value.shape}, reference has shape {reference.shape}")
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(reference))):
        return math.inf
    error = _rms(np.asarray(reference - value))
    divisor = _rms(reference) if scale is None else float(scale)
    if divisor == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / divisor


def assert_close(
    name: str, value: Any, reference: Any, bound: float, *, scale: float | None = None
) -> None:
    """Asserts that `error_ratio` is at most `bound`, for every leaf of two like pytrees.

    Args:
        name: what is compared, for the message.
        value: pytree of arrays.
        reference: pytree of the same structure and shapes.
        bound: largest error ratio allowed in each leaf.
        scale: as in `error_ratio`, the same for all leaves.

    Raises:
        AssertionError: a leaf is further off, has another shape, or the structures differ.

    Example:
        >>> assert_close("product", [1.0, 2.0], [1.0, 2.0000001], 1e-6)
    """
    values, structure = jax.tree.flatten_with_path(value)
    references, reference_structure = jax.tree.flatten(reference)
    if structure != reference_structure:
        raise AssertionError(f"{name}: structure {structure}, reference {reference_structure}")
    for (path, leaf), reference_leaf in zip(values, references, strict=True):
        label = name + jax.tree_util.keystr(path)
        if np.shape(leaf) != np.shape(reference_leaf):
            raise AssertionError(
                f"{label}: shape {np.shape(leaf)}, reference {np.shape(reference_leaf)}"
            )
        ratio = error_ratio(leaf, reference_leaf, scale=scale)
        if not ratio <= bound:
            raise AssertionError(f"{label}: error ratio {ratio:.3e} is above {bound:.3e}")

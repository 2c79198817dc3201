"""Messages along edges: masks of edges that only fill up, sums where messages arrive."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import is_known
from structlayers._core.precision import accumulation_dtype


def check_mask(mask: ArrayLike, edges: int) -> jax.Array:
    """A mask of edges.

    Raises:
        TypeError: not bool.
        ValueError: another shape.
    """
    array = jnp.asarray(mask)
    if array.dtype != jnp.bool_:
        raise TypeError(f"mask must be bool, got {array.dtype}")
    if array.shape != (edges,):
        raise ValueError(f"mask must have shape (E,) = ({edges},), got {array.shape}")
    return array


def blank_edges(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zero at edges that only fill up, whatever is there: `x (E, ...)` and its derivatives.

    Example:
        >>> blank_edges(jnp.array([1.0, jnp.nan]), jnp.array([True, False])).tolist()
        [1.0, 0.0]
    """
    if mask is None:
        return x
    return jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)


def sum_messages(
    messages: jax.Array,
    receivers: jax.Array,
    nodes: int,
    mask: jax.Array | None,
    *,
    indices_are_sorted: bool,
) -> jax.Array:
    """Sums of messages `(E, ...)` where they arrive, `(N, ...)`, in float32 at least.

    All sums are NaN where a receiver that could not be checked is out of range: no message is lost
    without a trace.

    Example:
        >>> messages, receivers = jnp.array([1.0, 2.0]), jnp.array([1, 1])
        >>> sum_messages(messages, receivers, 2, None, indices_are_sorted=True).tolist()
        [0.0, 3.0]
    """
    wide = blank_edges(messages, mask).astype(accumulation_dtype(messages.dtype))
    sums = jax.ops.segment_sum(wide, receivers, nodes, indices_are_sorted=indices_are_sorted)
    if is_known(receivers):
        return sums
    lost = (receivers < 0) | (receivers >= nodes)
    lost = lost if mask is None else lost & mask
    return jnp.where(jnp.any(lost), jnp.nan, sums)

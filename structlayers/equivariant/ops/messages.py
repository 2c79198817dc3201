"""`gaunt_message_passing`: messages along the edges of a graph, summed where they arrive."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import is_known
from structlayers._core.precision import PrecisionLike
from structlayers.equivariant.grids import GridLike
from structlayers.equivariant.ops.arguments import check_indices, take_rows
from structlayers.equivariant.ops.edges import blank_edges, check_mask, sum_messages
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.precision import canonicalize_table_precision
from structlayers.equivariant.signals import lmax_of, pack, product_parity, unpack, widen


def gaunt_message_passing(
    x: Any,
    y: Any,
    senders: ArrayLike,
    receivers: ArrayLike,
    *,
    lmax: int | None = None,
    weights: Sequence[ArrayLike | None] | None = None,
    weighting: str = "channelwise",
    mask: ArrayLike | None = None,
    indices_are_sorted: bool = False,
    grid: GridLike = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> Any:
    r"""Gaunt products of the senders' signals with the edges', summed at the receivers.

    .. math:: z_n = \sum_{e : r(e) = n} w_3(e) \circ
        \left( (w_1(e) \circ x_{s(e)}) \cdot (w_2(e) \circ y_e) \right)

    Sums are in float32 at least.

    Args:
        x: signals of nodes, `(N, *B, (L1 + 1)^2)`, or an IrrepsArray whose first axis is N.
        y: signals of edges of the same kind and dtype, such as harmonics of their directions:
            `(E, *B, (L2 + 1)^2)`, or `(E, (L2 + 1)^2)` for the same in all of `*B`.
        senders: integers `(E,)` from 0 to N - 1. Under `jax.jit` others cannot be refused: their
            messages are NaN.
        receivers: the same. Under `jax.jit` one out of range makes the whole result NaN.
        lmax: L3; None is L1 + L2.
        weights: of the degrees of x, of y and of the result, as in `gaunt_tensor_product`: leading
            axes broadcast against `(E, *B)`, so `(E, C, L + 1)` differs between edges and channels.
        weighting: as in `gaunt_tensor_product`.
        mask: bool `(E,)`, False for edges that are only there to fill up the arrays: they send
            nothing, and their y may be anything; under `jax.jit` their indices, too.
        indices_are_sorted: whether receivers do not decrease.
        grid: as in `gaunt_tensor_product`.
        precision: as in `gaunt_tensor_product`.
        implementation: of the product, as in `gaunt_tensor_product`.

    Returns:
        `(N, *B, (L3 + 1)^2)` in the dtype of x, or an IrrepsArray.

    Raises:
        TypeError: indices that are no integers, a mask that is not bool, or what
            `gaunt_tensor_product` says.
        ValueError: known indices out of range or, where they should be sorted, in another order;
            shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0, 0, 0], [3.0, 0, 0, 0]])
        >>> one = jnp.full((2, 1), (4 * jnp.pi) ** 0.5)
        >>> z = gaunt_message_passing(x, one, jnp.array([0, 1]), jnp.array([1, 1]))
        >>> z[:, 0].round(5).tolist()
        [0.0, 4.0]

    References:
        Luo, Chen, Krishnapriyan, 2024, arXiv:2401.10216, on equivariant convolutions.
    """
    x, x_parity = unpack("x", x)
    y, y_parity = unpack("y", y)
    parity = product_parity(x_parity, y_parity)
    dtype = x.dtype
    if y.dtype != dtype:
        raise TypeError(f"y must have the dtype of x, {dtype}, got {y.dtype}")
    if x.ndim < 2:
        raise ValueError(f"x must have shape (N, *B, (L1 + 1)^2), got {x.shape}")
    if y.ndim < 2:
        raise ValueError(f"y must have shape (E, *B, (L2 + 1)^2), got {y.shape}")
    nodes, edges = x.shape[0], y.shape[0]
    senders = check_indices("senders", senders, nodes, (edges,))
    receivers = check_indices("receivers", receivers, nodes, (edges,))
    if indices_are_sorted and is_known(receivers) and np.any(np.diff(np.asarray(receivers)) < 0):
        raise ValueError("receivers must not decrease where indices_are_sorted")
    canonicalize_table_precision(precision, dtype)  # words are for the dtype of the user's signals
    x, y = widen(x), widen(y)
    if y.ndim == 2:
        y = y.reshape(edges, *(1,) * (x.ndim - 2), y.shape[-1])
    keep = None if mask is None else check_mask(mask, edges)
    y, senders = blank_edges(y, keep), blank_edges(senders, keep)
    lmax = lmax_of("x", x) + lmax_of("y", y) if lmax is None else lmax
    messages = gaunt_tensor_product(
        take_rows(x, senders),
        y,
        lmax=lmax,
        weights=weights,
        weighting=weighting,
        grid=grid,
        precision=precision,
        implementation=implementation,
    )
    if messages.ndim != max(x.ndim, y.ndim) or messages.shape[0] != edges:
        raise ValueError(
            f"weights must broadcast against (E, *B) = {(edges, *x.shape[1:-1])}, "
            f"got messages of shape {messages.shape}"
        )
    sums = sum_messages(messages, receivers, nodes, keep, indices_are_sorted=indices_are_sorted)
    return pack(sums.astype(dtype), parity)

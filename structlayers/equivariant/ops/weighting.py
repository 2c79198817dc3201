"""Weights of the degrees of a product of signals: how channels, ranks and degrees share them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice
from structlayers.equivariant.ops.arguments import (
    check_leading,
    check_triple,
    check_weights,
    scale_degrees,
    to_rank,
)

WEIGHTINGS = ("channelwise", "rank", "fully_connected")

type Finish = Callable[[jax.Array], jax.Array]


def bind_weights(
    weighting: str,
    weights: Sequence[ArrayLike | None] | None,
    x: jax.Array,
    y: jax.Array,
    degrees: tuple[int, int, int],
    precision: Any,
) -> tuple[jax.Array, jax.Array, Finish]:
    """Operands of an unweighted product, and what is made of its result.

    Args:
        weighting: one of `WEIGHTINGS`, see `gaunt_tensor_product`.
        weights: as the user passes them.
        x: `(*B, (L1 + 1)^2)`, widened.
        y: `(*B, (L2 + 1)^2)`, widened.
        degrees: L1, L2, L3.
        precision: of the tables; channels mix in it if it is one of JAX, else in the highest.

    Returns:
        x and y of one rank, and the function of the result.

    Raises:
        TypeError: weights that are no tuple, or not real floating point.
        ValueError: an unknown word, weights of another number or shape.
    """
    require_choice("weighting", weighting, WEIGHTINGS)
    names = [f"weights[{index}]" for index in range(3)]
    w1, w2, w3 = given = [
        None if w is None else check_weights(name, w, degree, x)
        for name, w, degree in zip(names, check_triple(weights), degrees, strict=True)
    ]
    if weighting == "fully_connected":
        mixing = precision if isinstance(precision, jax.lax.Precision) else "highest"
        x, y = _mix("x", x, names[0], w1, mixing), _mix("y", y, names[1], w2, mixing)
        rank = check_leading(**{"mixed x": x, "mixed y": y})
        return to_rank(x, rank), to_rank(y, rank), lambda z: _mix("z", z, names[2], w3, mixing)
    if weighting == "rank":
        return _ranks(names, given, x, y)
    rank = check_leading(x=x, y=y, **dict(zip(names, given, strict=True)))
    x, y = scale_degrees(x, w1), scale_degrees(y, w2)
    return to_rank(x, rank), to_rank(y, rank), lambda z: scale_degrees(z, w3)


def _ranks(
    names: Sequence[str], given: Sequence[jax.Array | None], x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, Finish]:
    """With R in front of all axes."""
    present = {name: w for name, w in zip(names, given, strict=True) if w is not None}
    sizes = {w.shape[0] for w in present.values() if w.ndim > 1}
    if not sizes or len(sizes) > 1 or any(w.ndim < 2 for w in present.values()):
        listed = ", ".join(f"{name} {w.shape}" for name, w in present.items()) or None
        raise ValueError(
            "weights by rank must have shapes (R, ..., L + 1) with one R, at least one of them "
            f"given, got {listed}"
        )
    rows = {name: jax.ShapeDtypeStruct(w.shape[1:], w.dtype) for name, w in present.items()}
    rank = check_leading(x=x, y=y, **rows)
    x, y = to_rank(x, rank)[None], to_rank(y, rank)[None]
    w1, w2, w3 = (
        None if w is None else w.reshape(w.shape[0], *(1,) * (rank + 1 - w.ndim), *w.shape[1:])
        for w in given
    )
    return (
        scale_degrees(x, w1),
        scale_degrees(y, w2),
        lambda z: jnp.sum(scale_degrees(z, w3), axis=0),
    )


def _mix(
    signal: str, x: jax.Array, name: str, weights: jax.Array | None, precision: Any
) -> jax.Array:
    """`(*B, C, (L + 1)^2)` to `(*B, C', (L + 1)^2)` by weights `(..., C, C', L + 1)`."""
    if x.ndim < 2:
        raise ValueError(
            f"{signal} must have channels, (*B, C, (L + 1)^2), for fully connected weights, "
            f"got {x.shape}"
        )
    if weights is None:
        return x
    if weights.ndim < 3 or weights.shape[-3] != x.shape[-2]:
        raise ValueError(
            f"{name} must have shape (..., {x.shape[-2]}, C', {weights.shape[-1]}), channels of "
            f"{signal} before those that come out, got {weights.shape}"
        )
    try:
        jnp.broadcast_shapes(x.shape[:-2], weights.shape[:-3])
    except ValueError:
        raise ValueError(
            f"leading axes must broadcast, got {signal} {x.shape}, {name} {weights.shape}"
        ) from None
    return jnp.concatenate(
        [
            jnp.einsum(
                "...cm,...cd->...dm",
                x[..., degree**2 : (degree + 1) ** 2],
                weights[..., degree],
                precision=precision,
            )
            for degree in range(weights.shape[-1])
        ],
        axis=-1,
    )

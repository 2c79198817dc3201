"""`low_rank_multiply`: two thin factors in place of a dense matrix."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_inexact, require_shape
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.structured.ops.arguments import check_operands, common_dtype


def _prefer(x: Any, u: Any, v: Any, *, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    """Whichever multiplies less: two thin products, or the whole matrix and one product."""
    del platform, static
    rows, (outputs, rank) = math.prod(x.shape[:-1]), u.shape
    inputs = v.shape[0]
    thin = rows * rank * (inputs + outputs)
    whole = inputs * outputs * (rank + rows)
    name = "dense" if whole < thin else "xla"
    return ((name, f"two thin products take {thin} multiplications, the whole matrix {whole}"),)


dispatcher = Dispatcher(
    "low_rank_multiply",
    (
        Implementation("xla", "structlayers.structured.xla.products:low_rank_multiply"),
        Implementation("dense", "structlayers.structured.xla.products:low_rank_multiply_dense"),
        Implementation("reference", "structlayers.structured.reference:low_rank_multiply"),
    ),
    _prefer,
)


def _check_factors(u: ArrayLike, v: ArrayLike) -> tuple[jax.Array, jax.Array]:
    u, v = jnp.asarray(u), jnp.asarray(v)
    require_inexact("u", u)
    require_inexact("v", v)
    require_shape("u", u, ("m", "r"))
    require_shape("v", v, ("n", u.shape[-1]))
    for name, factor in (("u", u), ("v", v)):
        if 0 in factor.shape:
            raise ValueError(f"{name} must have no empty axis, got shape {factor.shape}")
    dtype = common_dtype(u, v)
    return u.astype(dtype), v.astype(dtype)


def low_rank_multiply(
    x: ArrayLike,
    u: ArrayLike,
    v: ArrayLike,
    *,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by a matrix of rank r, `y = u v^T x`.

    `r (m + n)` parameters, and as many multiplications per vector.

    Args:
        x: real or complex `(*B, n)`.
        u: `(m, r)`.
        v: `(n, r)`; not conjugated.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (two thin products), "dense" (the whole matrix, made in the call),
            "reference", or None for the one with fewer multiplications.

    Returns:
        `(*B, m)`. Half-precision `x` with real factors: the dtype of `x`, sums in float32.
        Otherwise the widest of the dtypes, complex if any is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> u, v = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[1.0], [-1.0]])
        >>> low_rank_multiply(jnp.array([5.0, 3.0]), u, v).tolist()
        [2.0, 4.0, 6.0]

    References:
        Denil, Shakibi, Dinh, Ranzato, de Freitas, "Predicting parameters in deep learning", 2013,
        arXiv:1306.0543.
    """
    u, v = _check_factors(u, v)
    x, weights = check_operands(x, (u, v), len(v))
    if x.shape[-1] != len(v):
        raise ValueError(f"x must have shape (*B, n) with n = {len(v)} as v has, got {x.shape}")
    return dispatcher(
        x,
        *weights,
        implementation=implementation,
        precision=canonicalize_precision(precision),
    )


def low_rank_to_dense(u: ArrayLike, v: ArrayLike, *, precision: PrecisionLike = None) -> jax.Array:
    """The matrix `u v^T` that `low_rank_multiply` applies to a column vector.

    Args:
        u: `(m, r)`.
        v: `(n, r)`.
        precision: of the product; None is the highest.

    Returns:
        `(m, n)` of the wider dtype of both, float32 at least.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> low_rank_to_dense(jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]])).tolist()
        [[3.0, 4.0], [6.0, 8.0]]
    """
    u, v = _check_factors(u, v)
    return jnp.einsum("mr,nr->mn", u, v, precision=canonicalize_precision(precision))

"""Portable Fastfood and low-rank products."""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.operands import pad_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly import apply_permutation, hadamard_multiply
from structlayers.structured.xla.matrices import apply_matrix, join_stacks


def fastfood_multiply(
    x: jax.Array,
    s: jax.Array,
    g: jax.Array,
    b: jax.Array,
    permutation: np.ndarray | jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`S H G P H B x` with two fast Hadamard products.

    Args:
        x: `(*B, n)`, n at most N.
        s: `(S, N)`.
        g: `(S, N)`.
        b: `(S, N)`.
        permutation: integers `(S, N)`.
        out_features: number of outputs kept.
        precision: of the Hadamard products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    stacks, size = s.shape

    def scale(y: jax.Array, diagonal: jax.Array) -> jax.Array:
        return y * diagonal.astype(y.dtype).reshape((1,) * (y.ndim - 2) + diagonal.shape)

    y = pad_features(x, size)[..., None, :]
    y = jnp.broadcast_to(y, (*y.shape[:-2], stacks, size))
    y = hadamard_multiply(scale(y, b), precision=precision)
    parts = [apply_permutation(y[..., k, :], permutation[k]) for k in range(stacks)]
    y = hadamard_multiply(scale(jnp.stack(parts, axis=-2), g), precision=precision)
    return join_stacks(scale(y, s), out_features)


def low_rank_multiply(
    x: jax.Array, u: jax.Array, v: jax.Array, *, precision: PrecisionLike = None
) -> jax.Array:
    """`u (v^T x)`: two products; x `(*B, n)`, u `(m, r)`, v `(n, r)`."""
    precision = canonicalize_precision(precision)
    middle = jnp.einsum("...n,nr->...r", x, v.astype(x.dtype), precision=precision)
    return jnp.einsum("...r,mr->...m", middle, u.astype(x.dtype), precision=precision)


def low_rank_multiply_dense(
    x: jax.Array, u: jax.Array, v: jax.Array, *, precision: PrecisionLike = None
) -> jax.Array:
    """`(u v^T) x`: one product with the whole matrix."""
    precision = canonicalize_precision(precision)
    matrix = jnp.einsum("mr,nr->mn", u, v, precision=precision)
    return apply_matrix(x, matrix[None], None, precision)

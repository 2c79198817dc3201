"""The definitions: every matrix written out, Krylov columns one by one. Oracle of the tests.

Plain `jax.numpy`; float64 under `jax.enable_x64`. Weights carry their axis of stacks S, data are
padded with zeros to the N columns of a stack, results are cut.
"""

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.operands import pad_features
from structlayers._core.precision import PrecisionLike, accumulation_dtype


def _apply(x: jax.Array, matrix: jax.Array, out_features: int | None) -> jax.Array:
    """`(*B, n)` by `(S, N, N)` to `(*B, out_features)` in the dtype of `x`."""
    stacks, rows, columns = matrix.shape
    wide = accumulation_dtype(x.dtype)
    y = jnp.einsum(
        "...n,mn->...m",
        pad_features(x, columns).astype(wide),
        matrix.reshape(stacks * rows, columns).astype(wide),
        precision="highest",
    )
    return y[..., :out_features].astype(x.dtype)


def krylov_matrix(operator: jax.Array, vector: jax.Array) -> jax.Array:
    """`K(A, v) = [v, A v, ..., A^(N-1) v]`, column by column, for A `(N, N)` and v `(N,)`."""

    def column(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return jnp.dot(operator, v, precision="highest"), v

    return jax.lax.scan(column, vector, length=len(vector))[1].T


def shift_matrix(size: int, corner: float, dtype: jnp.dtype) -> jax.Array:
    """`Z_f`: ones below the diagonal, f in the upper right corner."""
    below = jnp.eye(size, k=-1, dtype=dtype)
    return below.at[0, size - 1].add(corner)


def tridiagonal_matrix(diagonals: jax.Array) -> jax.Array:
    """The cyclic tridiagonal matrix with rows (lower, main, upper) of `(3, N)`."""
    unit = jnp.eye(diagonals.shape[-1], dtype=diagonals.dtype)
    places = (jnp.roll(unit, -1, axis=1), unit, jnp.roll(unit, 1, axis=1))
    terms = [d[:, None] * place for d, place in zip(diagonals, places, strict=True)]
    return jnp.stack(terms).sum(0)


def sylvester_matrix(size: int, dtype: jnp.dtype) -> jax.Array:
    """The normalised Hadamard matrix, by doubling."""
    matrix = jnp.ones((1, 1), dtype)
    while len(matrix) < size:
        matrix = jnp.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / jnp.sqrt(jnp.asarray(size, dtype))


def circulant_multiply(
    x: jax.Array, c: jax.Array, *, out_features: int | None = None, precision: PrecisionLike = None
) -> jax.Array:
    """`y_i = sum_j c_((i - j) mod N) x_j`, c `(S, N)`."""
    del precision
    steps = jnp.arange(c.shape[-1])
    return _apply(x, c[:, (steps[:, None] - steps[None, :]) % len(steps)], out_features)


def toeplitz_like_multiply(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`y = sum_i K(Z_1, g_i) K(Z_-1, h_i)^T x`, g and h `(S, r, N)`."""
    a = shift_matrix(g.shape[-1], 1.0, g.dtype)
    b = shift_matrix(g.shape[-1], -1.0, g.dtype)
    operators = [(a, b)] * len(g)
    return _displaced(x, g, h, operators, out_features, precision)


def ldr_multiply(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`y = sum_i K(A, g_i) K(B, h_i)^T x`, g and h `(S, r, N)`, a and b `(S, 3, N)`."""
    operators = [(tridiagonal_matrix(p), tridiagonal_matrix(q)) for p, q in zip(a, b, strict=True)]
    return _displaced(x, g, h, operators, out_features, precision)


def _displaced(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    operators: list[tuple[jax.Array, jax.Array]],
    out_features: int | None,
    precision: PrecisionLike,
) -> jax.Array:
    del precision
    matrices = []
    for (a, b), left, right in zip(operators, g, h, strict=True):
        terms = [
            jnp.dot(krylov_matrix(a, p), krylov_matrix(b, q).T, precision="highest")
            for p, q in zip(left, right, strict=True)
        ]
        matrices.append(jnp.stack(terms).sum(0))
    return _apply(x, jnp.stack(matrices), out_features)


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
    """`y = S H G P H B x`, three diagonals `(S, N)` and the indices of P `(S, N)`."""
    del precision
    hadamard = sylvester_matrix(s.shape[-1], s.dtype)
    matrices = []
    for scale, gauss, sign, order in zip(s, g, b, permutation, strict=True):
        middle = gauss[:, None] * (hadamard * sign[None, :])[jnp.asarray(order)]
        matrices.append(scale[:, None] * jnp.dot(hadamard, middle, precision="highest"))
    return _apply(x, jnp.stack(matrices), out_features)


def low_rank_multiply(
    x: jax.Array, u: jax.Array, v: jax.Array, *, precision: PrecisionLike = None
) -> jax.Array:
    """`y = u v^T x`, u `(m, r)`, v `(n, r)`."""
    del precision
    return _apply(x, jnp.dot(u, v.T, precision="highest")[None], None)

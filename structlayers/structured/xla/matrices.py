"""Matrices from their generators, by copies and sums: no gather, so no scatter in the gradient."""

import jax
import jax.numpy as jnp

from structlayers._core.operands import pad_features
from structlayers._core.precision import accumulation_dtype


def apply_matrix(
    x: jax.Array, matrix: jax.Array, out_features: int | None, precision: jax.lax.Precision
) -> jax.Array:
    """One product with whole matrices, summed in float32 or wider.

    Args:
        x: `(*B, n)`.
        matrix: `(S, N, N)`, of which the first n columns are used.
        out_features: number of outputs kept.
        precision: of the product.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    matrix = matrix.reshape(-1, matrix.shape[-1])[:out_features, : x.shape[-1]]
    return jnp.einsum("...n,mn->...m", x, matrix.astype(x.dtype), precision=precision)


def join_stacks(y: jax.Array, out_features: int | None) -> jax.Array:
    """`(*B, S, N)` to `(*B, S N)`, cut."""
    return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])[..., :out_features]


def _sheared(periods: jax.Array, rows: int, columns: int) -> jax.Array:
    """`out[..., i, j] = periods[..., (i + j) mod P]`: a tape of period P in rows one longer."""
    period = periods.shape[-1]
    copies = -(-rows * (period + 1) // period)
    tape = jnp.concatenate([periods] * copies, axis=-1)[..., : rows * (period + 1)]
    return tape.reshape(*periods.shape[:-1], rows, period + 1)[..., :columns]


def cyclic_hankel(vector: jax.Array) -> jax.Array:
    """`out[..., i, j] = v[..., (i + j) mod N]` for v `(..., N)`."""
    return _sheared(vector, vector.shape[-1], vector.shape[-1])


def circulant_matrix(c: jax.Array) -> jax.Array:
    """`out[..., i, j] = c[..., (i - j) mod N]`, first column c `(..., N)`."""
    # i - j is i + (N - j): the columns N .. 1 of the tape
    size = c.shape[-1]
    return _sheared(c, size, size + 1)[..., :0:-1]


def _unroll_rows(rows: jax.Array) -> jax.Array:
    """`out[..., k, j] = rows[..., k, (j - k) mod N]`, for `(..., N, N)`."""
    size = rows.shape[-1]
    flat = jnp.concatenate([rows, rows], axis=-1).reshape(*rows.shape[:-2], 2 * size * size)
    # entry (k, N + j - k) of rows 2 N long is entry (k, N + j) of rows 2 N - 1 long
    tape = pad_features(flat[..., size:], size * (2 * size - 1))
    return tape.reshape(*rows.shape[:-1], 2 * size - 1)[..., :size]


def toeplitz_like_matrix(g: jax.Array, h: jax.Array) -> jax.Array:
    """`M = sum_i K(Z_1, g_i) K(Z_-1, h_i)^T` by accumulation along its diagonals, `O(r N^2)`.

    `Z_1 M - M Z_-1 = D` with `D = 2 sum_i g_i w_i^T`, `w = (-h_1, ..., -h_(N-1), h_0)`, because
    `Z_1 - Z_-1` is `2 e_0 e_(N-1)^T`. So `M[i, j + 1] = M[i - 1, j] - D[i, j]`, rows modulo N, and
    going once around gives `2 M[i, 0] = sum_t D[i + t + 1, t]`.

    Args:
        g: `(..., r, N)`.
        h: `(..., r, N)`.

    Returns:
        `(..., N, N)`, float32 or wider.
    """
    wide = accumulation_dtype(g.dtype)
    g, h = g.astype(wide), h.astype(wide)
    w = jnp.concatenate([-h[..., 1:], h[..., :1]], axis=-1)
    ahead = cyclic_hankel(jnp.roll(g, -1, axis=-1))  # r t i: g[i + t + 1]
    steps = 2 * jnp.sum(w[..., None] * ahead, axis=-3)  # t i
    sums = jnp.cumsum(steps, axis=-2)
    first = sums[..., -1:, :] / 2
    before = jnp.concatenate([jnp.zeros_like(first), sums[..., :-1, :]], axis=-2)
    # row t holds M[i + t, t] at i
    return jnp.swapaxes(_unroll_rows(first - before), -1, -2)

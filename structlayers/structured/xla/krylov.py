"""Products with Krylov matrices of cyclic tridiagonal operators (LDR-TD)."""

import math

import jax
import jax.numpy as jnp

from structlayers._core.operands import pad_features
from structlayers._core.precision import (
    PrecisionLike,
    canonicalize_precision,
)
from structlayers.structured.xla.matrices import apply_matrix, join_stacks


def apply_tridiagonal(diagonals: jax.Array, v: jax.Array) -> jax.Array:
    """`(A v)_i = a_0i v_(i-1) + a_1i v_i + a_2i v_(i+1)`, indices modulo N.

    Args:
        diagonals: `(..., 3, N)`.
        v: `(..., r, N)`.

    Returns:
        `(..., r, N)`.
    """
    lower, main, upper = (diagonals[..., k : k + 1, :] for k in range(3))
    return lower * jnp.roll(v, 1, axis=-1) + main * v + upper * jnp.roll(v, -1, axis=-1)


def krylov_rows_by_scan(diagonals: jax.Array, v: jax.Array) -> jax.Array:
    """`A^t v` for t = 0 .. N-1, one application a step: `O(N)` each, N steps.

    Args:
        diagonals: `(..., 3, N)`.
        v: `(..., r, N)`.

    Returns:
        `(..., r, N, N)`, row t being `A^t v`.
    """

    def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return apply_tridiagonal(diagonals, v), v

    _, rows = jax.lax.scan(step, v, length=v.shape[-1], unroll=min(4, v.shape[-1]))
    return jnp.moveaxis(rows, 0, -2)


def krylov_rows_by_doubling(
    diagonals: jax.Array, v: jax.Array, precision: jax.lax.Precision
) -> jax.Array:
    """`A^t v` for t = 0 .. N-1 from `A, A^2, A^4, ...`: `O(N^3)` products each, `log2 N` steps.

    Arguments and result as in `krylov_rows_by_scan`.
    """
    size = v.shape[-1]
    # rows i of the transpose: A applied to unit vectors
    units = jnp.broadcast_to(jnp.eye(size, dtype=v.dtype), (*v.shape[:-2], size, size))
    power = apply_tridiagonal(diagonals, units)
    rows = v[..., None, :]
    while rows.shape[-2] < size:
        last = rows[..., : size - rows.shape[-2], :]
        further = jnp.einsum("...rtn,...nm->...rtm", last, power, precision=precision)
        rows = jnp.concatenate([rows, further], axis=-2)
        if rows.shape[-2] < size:
            power = jnp.matmul(power, power, precision=precision)
    return rows


def ldr_multiply(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    doubling: bool = False,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`sum_i K(A, g_i) K(B, h_i)^T x`: rows of both Krylov matrices, then matrix products.

    The two products are taken one after the other, or multiplied together first where the batch
    has more rows than that is worth.

    Args:
        x: `(*B, n)`, n at most N.
        g: `(S, r, N)`.
        h: `(S, r, N)`.
        a: `(S, 3, N)`.
        b: `(S, 3, N)`.
        doubling: whether the rows come from powers of the operators, else from a scan.
        out_features: number of outputs kept.
        precision: of the products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    precision = canonicalize_precision(precision)
    diagonals, vectors = jnp.stack([a, b]), jnp.stack([g, h])
    if doubling:
        rows = krylov_rows_by_doubling(diagonals, vectors, precision)
    else:
        rows = krylov_rows_by_scan(diagonals, vectors)
    rank, size = g.shape[-2:]
    if (2 * rank - 1) * math.prod(x.shape[:-1]) > rank * size:
        return apply_matrix(x, krylov_product(rows, precision), out_features, precision)
    left, right = rows.astype(x.dtype)  # S r t n
    middle = jnp.einsum("...n,srtn->...srt", pad_features(x, size), right, precision=precision)
    y = jnp.einsum("...srt,srtn->...sn", middle, left, precision=precision)
    return join_stacks(y, out_features)


def ldr_multiply_by_doubling(*args: jax.Array, **static: object) -> jax.Array:
    """`ldr_multiply` with the rows from powers of the operators."""
    return ldr_multiply(*args, doubling=True, **static)  # pyrefly: ignore[bad-argument-type]


def krylov_product(rows: jax.Array, precision: jax.lax.Precision) -> jax.Array:
    """The matrices `sum_i K(A, g_i) K(B, h_i)^T`, `(S, N, N)`, from rows `(2, S, r, N, N)`."""
    left, right = rows
    return jnp.einsum("srtm,srtn->smn", left, right, precision=precision)

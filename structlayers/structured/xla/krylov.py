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

type Sides = tuple[jax.Array, jax.Array]


def apply_tridiagonal(diagonals: jax.Array, v: jax.Array) -> jax.Array:
    """`(A v)_i = a_0i v_(i-1) + a_1i v_i + a_2i v_(i+1)`, indices modulo N.

    Args:
        diagonals: `(S, 3, N)`.
        v: `(S, r, N)`.

    Returns:
        `(S, r, N)`.
    """
    lower, main, upper = (diagonals[:, k : k + 1] for k in range(3))
    # one copy with both neighbours at hand: XLA on a CPU is several times slower with two rolls
    around = jnp.concatenate([v[..., -1:], v, v[..., :1]], axis=-1)
    return lower * around[..., :-2] + main * v + upper * around[..., 2:]


def krylov_rows_by_scan(operators: Sides, vectors: Sides) -> Sides:
    """`A^t v` for t = 0 .. N-1 and two pairs (A, v), one application a step: `O(N)` each, N steps.

    Args:
        operators: `(S, 3, N)` each.
        vectors: `(S, r, N)` each.

    Returns:
        `(N, S, r, N)` each, t first: row after row as the scan writes them.
    """

    def step(columns: Sides, _: None) -> tuple[Sides, Sides]:
        left, right = map(apply_tridiagonal, operators, columns)
        return (left, right), columns

    return jax.lax.scan(step, vectors, length=vectors[0].shape[-1])[1]


def krylov_rows_by_doubling(
    operators: Sides, vectors: Sides, precision: jax.lax.Precision
) -> Sides:
    """The same from `A, A^2, A^4, ...`: products of `O(N^3)`, `log2 N` steps."""
    left, right = (
        _rows_by_doubling(operator, v, precision)
        for operator, v in zip(operators, vectors, strict=True)
    )
    return left, right


def _rows_by_doubling(operator: jax.Array, v: jax.Array, precision: jax.lax.Precision) -> jax.Array:
    stacks, size = v.shape[0], v.shape[-1]
    # A applied to unit vectors: its transpose
    units = jnp.broadcast_to(jnp.eye(size, dtype=v.dtype), (stacks, size, size))
    power = apply_tridiagonal(operator, units)
    rows = v[None]
    while len(rows) < size:
        last = rows[: size - len(rows)]
        further = jnp.einsum("tsrn,snm->tsrm", last, power, precision=precision)
        rows = jnp.concatenate([rows, further])
        if len(rows) < size:
            power = jnp.matmul(power, power, precision=precision)
    return rows


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
    """`sum_i K(A, g_i) K(B, h_i)^T x` with Krylov columns from a scan.

    Args:
        x: `(*B, n)`, n at most N.
        g: `(S, r, N)`.
        h: `(S, r, N)`.
        a: `(S, 3, N)`.
        b: `(S, 3, N)`.
        out_features: number of outputs kept.
        precision: of the products; None is the highest.

    Returns:
        `(*B, out_features)` of the dtype of `x`.
    """
    rows = krylov_rows_by_scan((a, b), (g, h))
    return _apply_krylov(x, rows, out_features, canonicalize_precision(precision))


def ldr_multiply_by_doubling(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """The same with columns from powers of the operators; arguments as in `ldr_multiply`."""
    precision = canonicalize_precision(precision)
    rows = krylov_rows_by_doubling((a, b), (g, h), precision)
    return _apply_krylov(x, rows, out_features, precision)


def _apply_krylov(
    x: jax.Array, rows: Sides, out_features: int | None, precision: jax.lax.Precision
) -> jax.Array:
    """Two products, or one with the whole matrix where the batch has rows enough to pay for it."""
    size, _, rank, _ = rows[0].shape
    if (2 * rank - 1) * math.prod(x.shape[:-1]) > rank * size:
        return apply_matrix(x, krylov_product(rows, precision), out_features, precision)
    left, right = (side.astype(x.dtype) for side in rows)
    middle = jnp.einsum("...n,tsrn->...tsr", pad_features(x, size), right, precision=precision)
    y = jnp.einsum("...tsr,tsrn->...sn", middle, left, precision=precision)
    return join_stacks(y, out_features)


def krylov_product(rows: Sides, precision: jax.lax.Precision) -> jax.Array:
    """The matrices `sum_i K(A, g_i) K(B, h_i)^T`, `(S, N, N)`, from rows `(N, S, r, N)`."""
    left, right = rows
    return jnp.einsum("tsrm,tsrn->smn", left, right, precision=precision)

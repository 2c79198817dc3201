"""Products with Krylov matrices of cyclic tridiagonal operators (LDR-TD)."""

import functools
import math
from collections.abc import Callable

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
        diagonals: `(..., 3, N)`.
        v: `(..., r, N)`.

    Returns:
        `(..., r, N)`.
    """
    lower, main, upper = (diagonals[..., k : k + 1, :] for k in range(3))
    # one copy with both neighbours at hand: XLA on a CPU is several times slower with two turns
    around = jnp.concatenate([v[..., -1:], v, v[..., :1]], axis=-1)
    return lower * around[..., :-2] + main * v + upper * around[..., 2:]


def krylov_rows_by_scan(operators: Sides, vectors: Sides) -> Sides:
    """`A^t v` for t = 0 .. N-1 and two pairs (A, v), one application a step: `O(N)` each, N steps.

    Args:
        operators: `(S, 3, N)` each.
        vectors: `(S, r, N)` each.

    Returns:
        `(N, S, r, N)` each: row t in front is `A^t v`, as the scan writes it.
    """

    def step(columns: Sides, _: None) -> tuple[Sides, Sides]:
        left, right = map(apply_tridiagonal, operators, columns)
        return (left, right), columns

    return jax.lax.scan(step, vectors, length=vectors[0].shape[-1])[1]


def krylov_rows_by_doubling(
    diagonals: jax.Array, v: jax.Array, precision: jax.lax.Precision
) -> jax.Array:
    """`A^t v` for t = 0 .. N-1 from `A, A^2, A^4, ...`: `O(N^3)` products each, `log2 N` steps.

    Args:
        diagonals: `(..., 3, N)`.
        v: `(..., r, N)`.
        precision: of the products.

    Returns:
        `(..., r, N, N)`, row t being `A^t v`.
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


def _windows(v: jax.Array, width: int) -> jax.Array:
    """`out[..., k, i] = v[..., (i + k) mod N]` for k below `width`, by reshapes alone.

    A gather would do the same, and its gradient would be a scatter. Of the repeated vector, read
    N + 1 entries at a time, row k starts k further on.
    """
    size = v.shape[-1]
    copies = -(-width * (size + 1) // size)
    repeated = jnp.broadcast_to(v[..., None, :], (*v.shape[:-1], copies, size))
    flat = repeated.reshape(*v.shape[:-1], copies * size)[..., : width * (size + 1)]
    return flat.reshape(*v.shape[:-1], width, size + 1)[..., :size]


def krylov_rows_by_blocks(diagonals: jax.Array, v: jax.Array, block: int = 32) -> jax.Array:
    """`A^t v` for t = 0 .. N-1 with t = q block + s: rows `A^(q block) v`, then s steps from each.

    `A^block` is banded, its `2 block + 1` diagonals come from as many applications of A; the rows
    at multiples of `block` follow one another, the steps between go on from all of them at once.
    `O(r N^2)` operations in `2 block + N / block` steps.

    Args:
        diagonals: `(..., 3, N)`.
        v: `(..., r, N)`.
        block: bandwidth of the large steps, made smaller where N is below `2 block + 1`.

    Returns:
        `(..., r, N, N)`, row t being `A^t v`.
    """
    size = v.shape[-1]
    block = max(1, min(block, (size - 1) // 2))
    width = 2 * block + 1
    lower, main, upper = (diagonals[..., k : k + 1, :] for k in range(3))

    def widen(bands: jax.Array, _: None) -> tuple[jax.Array, None]:
        # a band k of A^t is one of A times band k - 1, k or k + 1 of the row that it reaches; the
        # outermost ones are zero until the last step, so that the turn carries nothing over
        below = jnp.roll(bands, (-1, 1), axis=(-2, -1))
        above = jnp.roll(bands, (1, -1), axis=(-2, -1))
        return lower * below + main * bands + upper * above, None

    identity = jnp.zeros((*diagonals.shape[:-2], width, size), v.dtype).at[..., block, :].set(1)
    bands, _ = jax.lax.scan(widen, identity, length=block, unroll=min(8, block))

    def leap(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        reached = _windows(jnp.roll(v, block, axis=-1), width)
        return jnp.sum(bands[..., None, :, :] * reached, axis=-2), v

    count = -(-size // block)
    _, starts = jax.lax.scan(leap, v, length=count, unroll=min(8, count))
    starts = jnp.moveaxis(starts, 0, -2)  # ... r q N
    lead, rank = starts.shape[:-3], starts.shape[-3]

    def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return apply_tridiagonal(diagonals, v), v

    together = starts.reshape(*lead, rank * count, size)
    _, rows = jax.lax.scan(step, together, length=block, unroll=min(8, block))
    rows = jnp.moveaxis(rows, 0, -2)  # ... (r q) s N
    return rows.reshape(*lead, rank, count * block, size)[..., :size, :]


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
    """`sum_i K(A, g_i) K(B, h_i)^T x` with the rows of both Krylov matrices from a scan.

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
    """`ldr_multiply` with the rows from powers of the operators."""
    precision = canonicalize_precision(precision)
    make = functools.partial(krylov_rows_by_doubling, precision=precision)
    return _apply_krylov(x, _both_sides(make, (a, b), (g, h)), out_features, precision)


def ldr_multiply_by_blocks(
    x: jax.Array,
    g: jax.Array,
    h: jax.Array,
    a: jax.Array,
    b: jax.Array,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """`ldr_multiply` with the rows from large and small steps."""
    rows = _both_sides(krylov_rows_by_blocks, (a, b), (g, h))
    return _apply_krylov(x, rows, out_features, canonicalize_precision(precision))


def _both_sides(
    make: Callable[[jax.Array, jax.Array], jax.Array], operators: Sides, vectors: Sides
) -> Sides:
    """Rows of both Krylov matrices in one go, `(N, S, r, N)` each."""
    left, right = jnp.moveaxis(make(jnp.stack(operators), jnp.stack(vectors)), -2, 1)
    return left, right


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

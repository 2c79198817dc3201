"""`ldr_multiply`: low displacement rank with learned tridiagonal operators (LDR-TD)."""

from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_out_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.structured.ops.arguments import Weights, check_operands, check_weights
from structlayers.structured.xla.krylov import krylov_product, krylov_rows_by_scan


def _prefer(
    x: Any, g: Any, h: Any, a: Any, b: Any, *, platform: str, **static: Any
) -> tuple[tuple[str, str], ...]:
    """Few operations on a CPU, few steps on an accelerator."""
    del x, g, h, a, b, static
    if platform in ("gpu", "tpu"):
        return (("blocks", f"N / 32 + 64 steps rather than N of a few microseconds on {platform}"),)
    return (("scan", f"O(r N^2) operations rather than O(N^3 log N) on {platform}"),)


dispatcher = Dispatcher(
    "ldr_multiply",
    (
        Implementation("scan", "structlayers.structured.xla.krylov:ldr_multiply"),
        Implementation("doubling", "structlayers.structured.xla.krylov:ldr_multiply_by_doubling"),
        Implementation("blocks", "structlayers.structured.xla.krylov:ldr_multiply_by_blocks"),
        Implementation("reference", "structlayers.structured.reference:ldr_multiply"),
    ),
    _prefer,
)


def _weights(g: ArrayLike, h: ArrayLike, a: ArrayLike, b: ArrayLike) -> Weights:
    low, operator = ("r", "N"), (3, "N")
    return {"g": (g, low), "h": (h, low), "a": (a, operator), "b": (b, operator)}


def ldr_multiply(
    x: ArrayLike,
    g: ArrayLike,
    h: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies by LDR-TD matrices, `y = sum_i K(A, g_i) K(B, h_i)^T x`.

    `K(A, v) = [v, A v, ..., A^(N-1) v]` with a learned tridiagonal A that also has two corners:
    `(A v)_i = a_0i v_(i-1) + a_1i v_i + a_2i v_(i+1)`, indices modulo N; B likewise (the paper's
    transposed). `2 r N + 6 N` parameters. With `A = Z_1`, `B = Z_-1` it is the Toeplitz-like
    product. Powers grow or decay like those of the spectral radius: operators far from norm one
    overflow or vanish.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= N`; padded with zeros to N.
        g: `(r, N)`, or `(S, r, N)` for S matrices that see the same input and stand one below the
            other. N is any size.
        h: of the shape of g.
        a: `(3, N)` or `(S, 3, N)`: below the diagonal, on it, above it. `a[0, 0]` and `a[2, N-1]`
            are the corners.
        b: of the shape of a.
        out_features: number of outputs kept, at most `S * N`; None is all.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "scan" (Krylov columns one by one, `O(r N^2)`), "doubling" (from powers of
            the operators, `O(N^3 log N)` in `log2 N` steps), "blocks" (large steps by a banded
            power, `O(r N^2)` in `N / 32 + 64` steps), "reference", or None to choose.

    Returns:
        `(*B, out_features)`. Half-precision `x` with real weights: the dtype of `x`, Krylov columns
        and sums in float32. Otherwise the widest of the dtypes, complex if any is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> unit = jnp.array([[1.0, 0.0, 0.0]])
        >>> shift = jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> ldr_multiply(jnp.array([1.0, 2.0, 3.0]), unit, unit, shift, shift).tolist()
        [1.0, 2.0, 3.0]

    References:
        Thomas, Gu, Dao, Rudra, Ré, "Learning compressed transforms with low displacement rank",
        2018, arXiv:1810.02309.
    """
    weights = check_weights(_weights(g, h, a, b))
    stacks, _, size = weights[0].shape
    x, weights = check_operands(x, weights, size)
    return dispatcher(
        x,
        *weights,
        implementation=implementation,
        out_features=check_out_features(out_features, stacks * size),
        precision=canonicalize_precision(precision),
    )


def ldr_to_dense(
    g: ArrayLike,
    h: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """The matrix that `ldr_multiply` applies to a column vector, in `O(r N^3)`.

    Args:
        g: `(r, N)` or `(S, r, N)`.
        h: of the shape of g.
        a: `(3, N)` or `(S, 3, N)`.
        b: of the shape of a.
        out_features: number of rows kept, at most `S * N`; None is all.
        precision: of the products; None is the highest.

    Returns:
        `(out_features, N)` of the widest dtype of all, float32 at least.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones((1, 2))
        >>> shift = jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        >>> ldr_to_dense(one, one, shift, shift).tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """
    g, h, a, b = check_weights(_weights(g, h, a, b))
    stacks, _, size = g.shape
    out_features = check_out_features(out_features, stacks * size)
    rows = krylov_rows_by_scan((a, b), (g, h))
    matrix = krylov_product(rows, canonicalize_precision(precision))
    return matrix.reshape(-1, size)[:out_features]

"""`toeplitz_like_multiply`: the product of matrices of low displacement rank with vectors."""

import math
from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_out_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.structured.ops.arguments import check_operands, check_weights
from structlayers.structured.xla.matrices import toeplitz_like_matrix

# Break-even between "dense" (the matrix is accumulated in every call) and "fft", in milliseconds,
# forward and the gradients; jax 0.12, float32, 2 shared cores of an AMD EPYC, precision highest.
#
#                    rank 4, rows 50             rank 4, rows 256            rank 1, rows 256
#     N          dense        fft           dense        fft            dense        fft
#     32       .035 .135   .085 .132     .072 .109   .285 .595      .033 .072   .114 .277
#     64       .117 .266   .103 .195     .132   -    .342 .795      .123 .284   .145 .274
#    128       .384 1.00   .157 .352     .519 1.04   .744   -       .336 .738   .497 1.08
#    256       1.11 8.03   .362 .919     1.31 8.75   1.44 3.00      .863 2.95   .509 2.30
#   1024       90.2  357   1.22 5.36     93.6  267   9.79 24.9      72.2  148   2.42 17.4
#
# GPU and TPU are not measured; there the limit is that of the circulant product.
_DENSE_UP_TO = {"cpu": 128, "gpu": 256, "tpu": 512}


def _prefer(x: Any, g: Any, h: Any, *, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    """Dense where the matrix is small and the transforms that it saves are many."""
    del h, static
    rank, size = g.shape[-2:]
    limit = _DENSE_UP_TO.get(platform, 128)
    if size > limit:
        return (("fft", f"N = {size} is above {limit}, the break-even size on {platform}"),)
    transforms = rank * math.prod(x.shape[:-1])
    if transforms < 2 * size:
        return (("fft", f"{transforms} transforms are few against making {size} x {size} entries"),)
    return (("dense", f"N = {size} is at most {limit}, with {transforms} transforms to save"),)


dispatcher = Dispatcher(
    "toeplitz_like_multiply",
    (
        Implementation("fft", "structlayers.structured.xla.fourier:toeplitz_like_multiply"),
        Implementation("dense", "structlayers.structured.xla.fourier:toeplitz_like_multiply_dense"),
        Implementation("reference", "structlayers.structured.reference:toeplitz_like_multiply"),
    ),
    _prefer,
)


def toeplitz_like_multiply(
    x: ArrayLike,
    g: ArrayLike,
    h: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies by Toeplitz-like matrices, `y = sum_i K(Z_1, g_i) K(Z_-1, h_i)^T x`.

    `Z_f` has ones below the diagonal and f in the upper right corner, and
    `K(A, v) = [v, A v, ..., A^(N-1) v]`: circulant for `Z_1`, skew-circulant for `Z_-1`. These are
    exactly the matrices M for which `Z_1 M - M Z_-1` has rank r at most: Toeplitz matrices (r = 2),
    their inverses, their products. `2 r N` parameters, `O(r N log N)` operations per vector.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= N`; padded with zeros to N.
        g: `(r, N)`, or `(S, r, N)` for S matrices that see the same input and stand one below the
            other. N is any size.
        h: of the shape of g.
        out_features: number of outputs kept, at most `S * N`; None is all.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "fft", "dense" (the whole matrix, accumulated along its diagonals in
            `O(r N^2)`), "reference", or None to choose by platform, rank and size.

    Returns:
        `(*B, out_features)`. Half-precision `x` with real weights: the dtype of `x`, sums in
        float32. Otherwise the widest of the dtypes, complex if any is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> shift, unit = jnp.array([[0.0, 1.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0]])
        >>> toeplitz_like_multiply(jnp.array([1.0, 2.0, 3.0]), shift, unit).round(5).tolist()
        [3.0, 1.0, 2.0]

    References:
        Sindhwani, Sainath, Kumar, "Structured transforms for small-footprint deep learning", 2015,
        arXiv:1510.01722; Thomas, Gu, Dao, Rudra, Ré, "Learning compressed transforms with low
        displacement rank", 2018, arXiv:1810.02309; Pan, "Structured matrices and polynomials",
        2001, chapter 4.
    """
    weights = check_weights({"g": (g, ("r", "N")), "h": (h, ("r", "N"))})
    stacks, _, size = weights[0].shape
    x, weights = check_operands(x, weights, size)
    return dispatcher(
        x,
        *weights,
        implementation=implementation,
        out_features=check_out_features(out_features, stacks * size),
        precision=canonicalize_precision(precision),
    )


def toeplitz_like_to_dense(
    g: ArrayLike, h: ArrayLike, *, out_features: int | None = None
) -> jax.Array:
    """The matrix that `toeplitz_like_multiply` applies to a column vector, in `O(r N^2)`.

    Args:
        g: `(r, N)` or `(S, r, N)`.
        h: of the shape of g.
        out_features: number of rows kept, at most `S * N`; None is all.

    Returns:
        `(out_features, N)` of the wider dtype of both, float32 at least.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> g, h = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 3.0]])
        >>> toeplitz_like_to_dense(g, h).tolist()
        [[-5.0, 5.0], [-1.0, 7.0]]
    """
    g, h = check_weights({"g": (g, ("r", "N")), "h": (h, ("r", "N"))})
    stacks, _, size = g.shape
    out_features = check_out_features(out_features, stacks * size)
    return toeplitz_like_matrix(g, h).reshape(-1, size)[:out_features]

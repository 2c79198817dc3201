"""`circulant_multiply`: the product of a circulant matrix with a batch of vectors."""

from typing import Any

import jax
from jax.typing import ArrayLike

from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_out_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.structured.ops.arguments import check_operands, check_weights
from structlayers.structured.xla.matrices import circulant_matrix

# Break-even between "dense" (the matrix is made in every call) and "fft", in milliseconds, forward
# and the gradients; jax 0.12, float32, 2 shared cores of an AMD EPYC, precision highest.
#
#                rows 50                     rows 256                    rows 1024
#     N      dense        fft           dense        fft            dense        fft
#     32   .025 .058   .031 .051     .033 .051   .083 .115      .047 .154   .147 .330
#     64   .028 .048   .033 .052     .050 .111   .104 .117      .138 .446   .331 .602
#    128   .072 .146   .064 .098     .136 .389   .175 .306      .433 1.25   .473 .980
#    256   .246 .636   .089 .143     .514 1.52   .326 .551      1.11 5.17   .732 1.67
#   1024   2.05 11.6   .250 .550     10.2 34.2   .855 2.02      34.1  109   3.43 7.93
#
# GPU and TPU are not measured: there the limits come from two passes over the data, of which each
# transform makes one, against one product at true float32.
_DENSE_UP_TO = {"cpu": 64, "gpu": 256, "tpu": 512}


def _prefer(x: Any, c: Any, *, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    """Dense up to the break-even size, Fourier transforms above."""
    del x, static
    size, limit = c.shape[-1], _DENSE_UP_TO.get(platform, 64)
    if size <= limit:
        return (("dense", f"N = {size} is at most {limit}, the break-even size on {platform}"),)
    return (("fft", f"N = {size} is above {limit}, the break-even size on {platform}"),)


dispatcher = Dispatcher(
    "circulant_multiply",
    (
        Implementation("fft", "structlayers.structured.xla.fourier:circulant_multiply"),
        Implementation("dense", "structlayers.structured.xla.fourier:circulant_multiply_dense"),
        Implementation("reference", "structlayers.structured.reference:circulant_multiply"),
    ),
    _prefer,
)


def circulant_multiply(
    x: ArrayLike,
    c: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by circulant matrices, `y_i = sum_j c_((i-j) mod N) x_j`.

    N parameters each. `O(N log N)` operations per vector by Fourier transforms.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= N`; padded with zeros to N.
        c: first column, `(N,)`, or `(S, N)` for S matrices that see the same input and stand one
            below the other. N is any size.
        out_features: number of outputs kept, at most `S * N`; None is all.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "fft", "dense" (the whole matrix, made in the call), "reference", or None to
            choose by platform and size.

    Returns:
        `(*B, out_features)`. Half-precision `x` with real c: the dtype of `x`, sums in float32.
        Otherwise the wider of both dtypes, complex if either is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> circulant_multiply(jnp.arange(4.0), jnp.array([0.0, 1.0, 0.0, 0.0])).tolist()
        [3.0, 0.0, 1.0, 2.0]

    References:
        Cheng, Yu, Feris, Kumar, Choudhary, Chang, "An exploration of parameter redundancy in deep
        networks with circulant projections", 2015, arXiv:1502.03436.
    """
    weights = check_weights({"c": (c, ("N",))})
    stacks, size = weights[0].shape
    x, weights = check_operands(x, weights, size)
    return dispatcher(
        x,
        *weights,
        implementation=implementation,
        out_features=check_out_features(out_features, stacks * size),
        precision=canonicalize_precision(precision),
    )


def circulant_to_dense(c: ArrayLike, *, out_features: int | None = None) -> jax.Array:
    """The matrix that `circulant_multiply` applies to a column vector.

    Args:
        c: `(N,)` or `(S, N)`.
        out_features: number of rows kept, at most `S * N`; None is all.

    Returns:
        `(out_features, N)` of the dtype of c, float32 at least.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> circulant_to_dense(jnp.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]]
    """
    (c,) = check_weights({"c": (c, ("N",))})
    out_features = check_out_features(out_features, c.size)
    return circulant_matrix(c).reshape(-1, c.shape[-1])[:out_features]

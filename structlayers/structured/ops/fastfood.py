"""`fastfood_multiply`: diagonals and Hadamard products in place of a dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_power_of_two
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_out_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly import is_permutation
from structlayers.structured.ops.arguments import Weights, check_operands, check_weights

dispatcher = Dispatcher(
    "fastfood_multiply",
    (
        Implementation("xla", "structlayers.structured.xla.products:fastfood_multiply"),
        Implementation("reference", "structlayers.structured.reference:fastfood_multiply"),
    ),
)


def _diagonals(s: ArrayLike, g: ArrayLike, b: ArrayLike) -> Weights:
    return {"s": (s, ("N",)), "g": (g, ("N",)), "b": (b, ("N",))}


def fastfood_multiply(
    x: ArrayLike,
    s: ArrayLike,
    g: ArrayLike,
    b: ArrayLike,
    permutation: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Multiplies every vector of a batch by Fastfood matrices, `y = S H G P H B x`.

    S, G and B are diagonal, H is the normalised Hadamard matrix, `(P x)[i] = x[permutation[i]]`.
    3 N parameters; `2 N log2 N + 3 N` operations per vector.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= N`; padded with zeros to N.
        s: `(N,)`, or `(S, N)` for S matrices that see the same input and stand one below the other.
            N is a power of two.
        g: of the shape of s.
        b: of the shape of s.
        permutation: integers of the shape of s, or `(N,)` for all matrices.
        out_features: number of outputs kept, at most `S * N`; None is all.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (fast Hadamard products), "reference" (whole matrices), or None.

    Returns:
        `(*B, out_features)`. Half-precision `x` with real diagonals: the dtype of `x`. Otherwise
        the widest of the dtypes, complex if any is.

    Raises:
        TypeError: integers or bools for values, or a permutation that is not of integers.
        ValueError: a shape does not fit, or a known permutation is none.

    Example:
        >>> one = jnp.ones(4)
        >>> fastfood_multiply(jnp.arange(4.0), one, one, one, jnp.arange(4)).tolist()
        [0.0, 1.0, 2.0, 3.0]

    References:
        Le, Sarlós, Smola, "Fastfood: approximate kernel expansions in loglinear time", 2013,
        arXiv:1408.3060; Yang, Moczulski, Denil, de Freitas, Smola, Song, Wang, "Deep
        fried convnets", 2015, arXiv:1412.7149 (learned diagonals).
    """
    weights = check_weights(_diagonals(s, g, b))
    stacks, size = weights[0].shape
    require_power_of_two("N, the last axis of s,", size)
    x, weights = check_operands(x, weights, size)
    return dispatcher(
        x,
        *weights,
        check_permutation(permutation, stacks, size),
        implementation=implementation,
        out_features=check_out_features(out_features, stacks * size),
        precision=canonicalize_precision(precision),
    )


def check_permutation(permutation: ArrayLike, stacks: int, size: int) -> np.ndarray | jax.Array:
    """Returns the permutation as `(S, N)`, a NumPy array where its values are known."""
    known = not isinstance(permutation, jax.core.Tracer)
    indices = np.asarray(permutation) if known else jnp.asarray(permutation)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"permutation must be integers, got {indices.dtype}")
    if indices.shape not in ((size,), (stacks, size)):
        raise ValueError(
            f"permutation must have shape (N,) = ({size},) or (S, N) = ({stacks}, {size}), "
            f"got {indices.shape}"
        )
    if indices.ndim == 1:
        indices = indices.reshape(1, size).repeat(stacks, axis=0)
    if isinstance(indices, np.ndarray) and not all(map(is_permutation, indices)):
        raise ValueError(f"permutation must hold every index from 0 to {size - 1} once")
    return indices


def fastfood_to_dense(
    s: ArrayLike,
    g: ArrayLike,
    b: ArrayLike,
    permutation: ArrayLike,
    *,
    out_features: int | None = None,
    precision: PrecisionLike = None,
) -> jax.Array:
    """The matrix that `fastfood_multiply` applies to a column vector, in `O(N^2 log N)`.

    Args:
        s: `(N,)` or `(S, N)`.
        g: of the shape of s.
        b: of the shape of s.
        permutation: integers of the shape of s, or `(N,)`.
        out_features: number of rows kept, at most `S * N`; None is all.
        precision: of the Hadamard products; None is the highest.

    Returns:
        `(out_features, N)` of the widest dtype of the diagonals, float32 at least.

    Raises:
        TypeError: as `fastfood_multiply`.
        ValueError: as `fastfood_multiply`.

    Example:
        >>> one = jnp.ones(2)
        >>> fastfood_to_dense(one, one, one, jnp.array([1, 0])).round(6).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """
    s, g, b = check_weights(_diagonals(s, g, b))
    units = jnp.eye(s.shape[-1], dtype=s.dtype)
    columns = fastfood_multiply(
        units, s, g, b, permutation, out_features=out_features, precision=precision
    )
    return columns.T

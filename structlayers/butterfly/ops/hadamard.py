"""`hadamard_multiply` and `sorf_multiply`: fast Walsh-Hadamard products."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_choice, require_inexact, require_power_of_two
from structlayers._core.dispatch import Dispatcher, Implementation
from structlayers._core.operands import check_input, operand_dtypes, pad_features
from structlayers._core.precision import PrecisionLike, canonicalize_precision
from structlayers.butterfly.ops.choice import prefer_one_pass

NORM_EXPONENTS = {"ortho": -0.5, "backward": 0.0, "forward": -1.0}


def _prefer(x: Any, *_: Any, platform: str, **static: Any) -> tuple[tuple[str, str], ...]:
    """The kernel for Hopper from where it pays for butterflies, of the same size."""
    del static
    return prefer_one_pass(x, x.shape[-1], platform=platform)


def _check_pallas_gpu(x: Any, *_: Any, platform: str, **static: Any) -> None:
    from structlayers.butterfly.pallas_gpu.support import check_rows

    del static
    check_rows(x, x.shape[-1], platform=platform)


def _dispatcher(op: str) -> Dispatcher:
    return Dispatcher(
        op,
        (
            Implementation("xla", f"structlayers.butterfly.walsh.xla:{op}"),
            Implementation("reference", f"structlayers.butterfly.walsh.reference:{op}"),
            Implementation(
                "pallas_gpu", f"structlayers.butterfly.pallas_gpu.hadamard:{op}", _check_pallas_gpu
            ),
        ),
        _prefer,
    )


dispatcher = _dispatcher("hadamard_multiply")
sorf_dispatcher = _dispatcher("sorf_multiply")


def hadamard_multiply(
    x: ArrayLike,
    *,
    size: int | None = None,
    norm: str = "ortho",
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Fast Walsh-Hadamard transform of every vector of a batch, `y = c H_N x`.

    `H_2N = [[H_N, H_N], [H_N, -H_N]]`, Sylvester's order, symmetric. `N log2 N` additions a vector.
    With the default norm the product is orthogonal and its own inverse.

    Args:
        x: real or complex `(*B, n)`.
        size: N, a power of two, at least n: shorter vectors are padded with zeros. None is n, which
            must then be a power of two itself.
        norm: c = 1/sqrt(N) ("ortho"), 1 ("backward") or 1/N ("forward").
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: "xla" (a product with a constant matrix for each group of factors),
            "pallas_gpu" (one or two passes over memory, on Hopper), "reference" (factor by
            factor), or None to choose.

    Returns:
        `(*B, N)` of the dtype of `x`; half precision is summed in float32.

    Raises:
        TypeError: integers or bools.
        ValueError: `size` or the length of `x` does not fit, or an unknown `norm`.

    Example:
        >>> hadamard_multiply(jnp.array([1.0, 2.0, 3.0, 4.0]), norm="backward").tolist()
        [10.0, -2.0, -4.0, 0.0]

    References:
        Fino, Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform", 1976.
    """
    x = jnp.asarray(x)
    require_inexact("x", x)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (*B, n) with n >= 1, got {x.shape}")
    if size is None:
        hint = "the last axis of x (or give size, to pad it with zeros)"
        size = require_power_of_two(hint, x.shape[-1])
    elif require_power_of_two("size", size) < x.shape[-1]:
        raise ValueError(f"size must be at least n = {x.shape[-1]}, got {size}")
    exponent = NORM_EXPONENTS[require_choice("norm", norm, tuple(NORM_EXPONENTS))]
    return dispatcher(
        pad_features(x, size),
        implementation=implementation,
        scale=float(size) ** exponent,
        precision=canonicalize_precision(precision),
    )


def sorf_multiply(
    x: ArrayLike,
    signs: ArrayLike,
    *,
    precision: PrecisionLike = None,
    implementation: str | None = None,
) -> jax.Array:
    """Structured orthogonal random features, `y = H D_K ... H D_2 H D_1 x` with normalised H.

    Each D is a diagonal of signs, three in the paper, whose features are `sqrt(N) / sigma` times
    this product (before cosine and sine). Orthogonal for entries of +-1; any real or complex
    diagonals are taken, and can be trained.

    Args:
        x: real or complex `(*B, n)`, `1 <= n <= N`; padded with zeros.
        signs: `(K, N)`, K at least 1, N a power of two; `signs[0]` is applied first.
        precision: of float32 matrix products; None is the highest, true float32.
        implementation: as of `hadamard_multiply`.

    Returns:
        `(*B, N)`. Half-precision `x` with real signs: the dtype of `x`. Otherwise the wider of
        both dtypes, complex if either is.

    Raises:
        TypeError: integers or bools.
        ValueError: a shape does not fit.

    Example:
        >>> y = sorf_multiply(jnp.array([3.0, 4.0]), jnp.array([[1.0, -1.0]] * 3))
        >>> round(float(jnp.linalg.norm(y)), 5)
        5.0

    References:
        Yu, Suresh, Choromanski, Holtmann-Rice, Kumar, "Orthogonal random features", 2016,
        arXiv:1610.09072.
    """
    signs = jnp.asarray(signs)
    require_inexact("signs", signs)
    if signs.ndim != 2 or 0 in signs.shape:
        raise ValueError(f"signs must have shape (K, N) with K >= 1, got {signs.shape}")
    size = require_power_of_two("N, the last axis of signs,", signs.shape[-1])
    x = check_input(x, size)
    dtype, _ = operand_dtypes(x.dtype, signs.dtype)
    y = pad_features(x.astype(dtype), size)
    return sorf_dispatcher(
        y,
        signs.astype(dtype),
        implementation=implementation,
        precision=canonicalize_precision(precision),
    )

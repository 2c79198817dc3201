"""Operands of the products over paths: leading axes, dtypes, irreps with equal multiplicities."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_real
from structlayers.equivariant.wigner import require_degree

type SignalProduct = Callable[[jax.Array, jax.Array, tuple[int, int, int]], jax.Array]


def has_irreps(operand: Any) -> bool:
    """Whether an operand is an `e3nn_jax.IrrepsArray`."""
    return hasattr(operand, "irreps") and hasattr(operand, "array")


def require_same_kind(x: Any, y: Any) -> bool:
    """Whether both operands are irreps arrays.

    Raises:
        TypeError: one is, the other is not.
    """
    if has_irreps(x) != has_irreps(y):
        raise TypeError(
            "x and y must both be arrays or both e3nn_jax.IrrepsArray, got "
            f"{type(x).__name__} and {type(y).__name__}"
        )
    return has_irreps(x)


def signal_degree(name: str, array: Any) -> int:
    """The largest degree L of coefficients `(..., (L + 1)^2)`.

    Raises:
        ValueError: the last axis has no such length.
    """
    size = array.shape[-1] if array.ndim else 0
    lmax = math.isqrt(size) - 1
    if size < 1 or (lmax + 1) ** 2 != size:
        raise ValueError(f"{name} must have shape (..., (L + 1)^2), got {tuple(array.shape)}")
    return lmax


def real_array(name: str, value: ArrayLike) -> jax.Array:
    """An array of real floating point.

    Raises:
        TypeError: complex numbers, integers or bools.
        ValueError: no axis.
    """
    array = jnp.asarray(value)
    require_real(name, array)
    if array.ndim < 1:
        raise ValueError(f"{name} must have at least one axis, got shape ()")
    return array


def align(names: Sequence[str], arrays: Sequence[jax.Array | None]) -> list[Any]:
    """Arrays of one dtype, the widest, and of one rank, by axes of length 1 in front.

    Args:
        names: of the arrays, for messages.
        arrays: each with leading axes that broadcast, and a last axis of its own; None stays.

    Raises:
        ValueError: the leading axes do not broadcast.
    """
    given = [array for array in arrays if array is not None]
    dtype = given[0].dtype
    for array in given[1:]:
        dtype = jnp.promote_types(dtype, array.dtype)
    try:
        jnp.broadcast_shapes(*(array.shape[:-1] for array in given))
    except ValueError:
        shapes = ", ".join(
            f"{name} {array.shape}"
            for name, array in zip(names, arrays, strict=True)
            if array is not None
        )
        raise ValueError(f"leading axes must broadcast, got {shapes}") from None
    rank = max(array.ndim for array in given)
    return [
        None
        if array is None
        else array.astype(dtype).reshape((1,) * (rank - array.ndim) + array.shape)
        for array in arrays
    ]


def split_channels(name: str, operand: Any) -> tuple[jax.Array, tuple[Any, ...], int]:
    """An irreps array with its multiplicity as an axis.

    Args:
        name: of the operand.
        operand: irreps array `(..., C d)` whose irreps all have the multiplicity C.

    Returns:
        `(..., C, d)`, the irreps in their order, and C.

    Raises:
        ValueError: multiplicities that differ, or no irreps at all.
    """
    multiplicities = {mul for mul, _ in operand.irreps}
    if len(multiplicities) != 1:
        raise ValueError(
            f"{name} must have irreps of one multiplicity, got {operand.irreps}; regroup or "
            "mix them by a linear layer first"
        )
    (channels,) = multiplicities
    irreps = tuple(ir for _, ir in operand.irreps)
    array = operand.mul_to_axis(channels).array
    return real_array(name, array), irreps, channels


def require_channels(names: tuple[str, str], first: int, second: int) -> None:
    """Checks that two multiplicities are equal, or one of them 1.

    Raises:
        ValueError: they are not.
    """
    if first != second and 1 not in (first, second):
        raise ValueError(
            f"{names[0]} and {names[1]} must have equal multiplicities, or one of them 1, "
            f"got {first} and {second}"
        )


def merge_channels(array: jax.Array, irreps: Sequence[Any]) -> Any:
    """`(..., C, d)` back to an irreps array `(..., C d)`, each irrep with the multiplicity C."""
    import e3nn_jax as e3nn

    return e3nn.IrrepsArray(e3nn.Irreps([(1, ir) for ir in irreps]), array).axis_to_mul()


def signal_parity(name: str, operand: Any) -> tuple[jax.Array, int, int]:
    """An irreps array as the coefficients of signals on the sphere.

    Args:
        name: of the operand.
        operand: irreps array with the degrees 0..L in order, of one multiplicity and of parities
            `p (-1)^l`: `0e + 1o + 2e ..` (p = 1) or `0o + 1e + 2o ..` (p = -1).

    Returns:
        `(..., C, (L + 1)^2)`, p and C.

    Raises:
        ValueError: other irreps; the message names the first that does not belong there.
    """
    array, irreps, channels = split_channels(name, operand)
    parity = irreps[0].p
    for degree, ir in enumerate(irreps):
        if (ir.l, ir.p) != (degree, parity * (-1) ** degree):
            wanted = f"{degree}{'e' if parity * (-1) ** degree == 1 else 'o'}"
            raise ValueError(
                f"{name} must have the irreps of a signal, degrees 0, 1, 2 .. of alternating "
                f"parity, got {operand.irreps}: {ir} stands where {wanted} is wanted"
            )
    return array, parity, channels


def signal_irreps(lmax: int, parity: int) -> list[Any]:
    """Irreps of a signal: degrees 0..L of parities `p (-1)^l`."""
    import e3nn_jax as e3nn

    return [e3nn.Irrep(degree, parity * (-1) ** degree) for degree in range(lmax + 1)]


def degree_weights(name: str, weights: ArrayLike | None, degrees: int) -> jax.Array | None:
    """Weights `(..., L + 1)` of an operand's degrees.

    Raises:
        TypeError: no real floating point.
        ValueError: the last axis is not L + 1 long.
    """
    if weights is None:
        return None
    array = real_array(name, weights)
    if array.shape[-1] != degrees:
        raise ValueError(
            f"{name} must have shape (..., {degrees}), one weight a degree, got {array.shape}"
        )
    return array


def spread_degrees(weights: jax.Array) -> jax.Array:
    """`(..., L + 1)` to `(..., (L + 1)^2)`: the weight of a degree for each of its orders."""
    lmax = weights.shape[-1] - 1
    return weights[..., np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)]


def signal_product(
    x: Any,
    y: Any,
    lmax: int | None,
    weights: Sequence[ArrayLike | None] | None,
    products: Mapping[int, SignalProduct],
    whole: SignalProduct | None = None,
) -> Any:
    """A weighted product of two signals, on arrays or irreps arrays.

    Args:
        x: signal of degrees 0..L1.
        y: signal of degrees 0..L2.
        lmax: largest degree of the product; None is `L1 + L2`.
        weights: of the degrees of x, y and the product.
        products: by its parity, 1 for couplings of even sum and -1 for odd, a function of aligned
            arrays and (L1, L2, lmax); more than one stand one after the other in irreps arrays.
        whole: the function for arrays; None is the only one of `products`.
    """
    irreps = require_same_kind(x, y)
    parity = 1
    if irreps:
        x, parity1, channels1 = signal_parity("x", x)
        y, parity2, channels2 = signal_parity("y", y)
        require_channels(("x", "y"), channels1, channels2)
        parity = parity1 * parity2
    x, y = real_array("x", x), real_array("y", y)
    first, second = signal_degree("x", x), signal_degree("y", y)
    third = first + second if lmax is None else require_degree("lmax", lmax)
    scales = _signal_weights(weights, (first, second, third))
    x, y, *scales = align(("x", "y", "weights 1", "weights 2", "weights 3"), (x, y, *scales))
    x, y = (
        array if scale is None else array * scale
        for array, scale in zip((x, y), scales, strict=False)
    )

    def run(product: SignalProduct) -> jax.Array:
        z = product(x, y, (first, second, third))
        return z if scales[2] is None else z * scales[2]

    if not irreps:
        return run(whole or next(iter(products.values())))
    parts = [run(product) for product in products.values()]
    out = [ir for flip in products for ir in signal_irreps(third, parity * flip)]
    return merge_channels(jnp.concatenate(parts, axis=-1), out)


def _signal_weights(
    weights: Sequence[ArrayLike | None] | None, degrees: tuple[int, int, int]
) -> list[jax.Array | None]:
    """Weights of three operands, one for each coefficient."""
    if weights is None:
        return [None] * 3
    if not isinstance(weights, tuple | list) or len(weights) != 3:
        raise ValueError(
            "weights must be a tuple of three, for x, y and the product, each an array or None"
        )
    scales = [
        degree_weights(f"weights[{i}]", given, degree + 1)
        for i, (given, degree) in enumerate(zip(weights, degrees, strict=True))
    ]
    return [None if scale is None else spread_degrees(scale) for scale in scales]

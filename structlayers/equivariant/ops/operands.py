"""Operands of products over paths: pairs of signals, irreps with equal multiplicities."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from structlayers._core.checks import require_real
from structlayers.equivariant.ops.arguments import (
    check_leading,
    check_lmax,
    check_triple,
    check_weights,
    scale_degrees,
    to_rank,
)
from structlayers.equivariant.paths import PathTable
from structlayers.equivariant.signals import (
    Parity,
    is_irreps_array,
    lmax_of,
    pack,
    product_parity,
    unpack,
    widen,
)

type SignalProduct = Callable[[jax.Array, jax.Array, tuple[int, int, int]], jax.Array]


def require_same_kind(x: Any, y: Any) -> bool:
    """Whether both operands are irreps arrays.

    Raises:
        TypeError: one is, the other is not.
    """
    if is_irreps_array(x) != is_irreps_array(y):
        raise TypeError(
            "x and y must both be IrrepsArray, or both plain arrays of coefficients, got "
            f"{type(x).__name__} and {type(y).__name__}"
        )
    return is_irreps_array(x)


def require_same_dtype(x: jax.Array, y: jax.Array) -> None:
    """Checks that two operands are real floating point of one dtype.

    Raises:
        TypeError: they are not.
    """
    require_real("x", x)
    require_real("y", y)
    if x.dtype != y.dtype:
        raise TypeError(f"y must have the dtype of x, {x.dtype}, got {y.dtype}")


def path_weights(name: str, weights: ArrayLike, paths: int, dtype: Any) -> jax.Array:
    """Weights `(..., P)` of the paths, in the dtype of the product.

    Raises:
        TypeError: not real floating point.
        ValueError: another last axis.
    """
    array = jnp.asarray(weights)
    require_real(name, array)
    if array.ndim < 1 or array.shape[-1] != paths:
        raise ValueError(
            f"{name} must have shape (..., {paths}), one for each path, got {array.shape}"
        )
    return array.astype(dtype)


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
    channels = common_multiplicity(name, operand.irreps)
    irreps = tuple(ir for _, ir in operand.irreps)
    return jnp.asarray(operand.mul_to_axis(channels).array), irreps, channels


def common_multiplicity(name: str, irreps: Any) -> int:
    """The multiplicity that all irreps have.

    Raises:
        ValueError: multiplicities that differ or are 0, or no irreps.
    """
    multiplicities = {mul for mul, _ in irreps}
    if len(multiplicities) != 1 or 0 in multiplicities:
        raise ValueError(
            f"{name} must have irreps of one multiplicity, got {irreps}; a linear layer can "
            "give them one"
        )
    return multiplicities.pop()


def require_channels(first: int, second: int) -> None:
    """Checks that two multiplicities are equal, or one of them 1.

    Raises:
        ValueError: they are not.
    """
    if first != second and 1 not in (first, second):
        raise ValueError(
            f"x and y must have equal multiplicities, or one of them 1, got {first} and {second}"
        )


def merge_channels(array: jax.Array, irreps: Sequence[Any]) -> Any:
    """`(..., C, d)` back to an irreps array `(..., C d)`, each irrep with the multiplicity C."""
    import e3nn_jax as e3nn

    return e3nn.IrrepsArray(e3nn.Irreps([(1, ir) for ir in irreps]), array).axis_to_mul()


def signal_product(
    x: Any,
    y: Any,
    lmax: int | None,
    weights: Sequence[ArrayLike | None] | None,
    products: Mapping[str, SignalProduct],
) -> Any:
    """A weighted product of two signals, on plain coefficients or irreps arrays.

    Args:
        x: signal of degrees 0..L1.
        y: signal of degrees 0..L2.
        lmax: largest degree of the product; None is `L1 + L2`.
        weights: of the degrees of x, y and the product.
        products: functions of aligned coefficients and (L1, L2, lmax), by couplings: "even" or
            "odd", which tells the parity of the result, or both and "all" for their sum. Where
            their parities differ, irreps arrays hold one after the other.
    """
    x, parity1 = unpack("x", x)
    y, parity2 = unpack("y", y)
    parity = product_parity(parity1, parity2)
    require_same_dtype(x, y)
    dtype = x.dtype
    first, second = lmax_of("x", x), lmax_of("y", y)
    third = check_lmax(lmax, first + second)
    x, y = widen(x), widen(y)
    scales = [
        None if given is None else check_weights(f"weights[{index}]", given, degree, x)
        for index, (given, degree) in enumerate(
            zip(check_triple(weights), (first, second, third), strict=True)
        )
    ]
    names = {f"weights[{index}]": scale for index, scale in enumerate(scales)}
    rank = check_leading(x=x, y=y, **names)
    x, y = (
        to_rank(scale_degrees(array, scale), rank)
        for array, scale in zip((x, y), scales, strict=False)
    )

    def run(couplings: str) -> jax.Array:
        z = products[couplings](x, y, (first, second, third))
        return scale_degrees(z, scales[2]).astype(dtype)

    if parity is None or parity.argument == 1 or len(products) == 1:
        couplings = "all" if "all" in products else next(iter(products))
        return pack(run(couplings), None if parity is None else coupled_parity(parity, couplings))
    import e3nn_jax as e3nn

    return e3nn.concatenate(
        [pack(run(part), coupled_parity(parity, part)) for part in ("even", "odd")]
    )


def prefer_tensor(
    x: Any, y: Any, *, table: PathTable, platform: str, entries: int, **static: Any
) -> tuple[tuple[str, str], ...]:
    """On a CPU the product by one coupling tensor, where that has few entries."""
    del static
    if platform != "cpu" or x.shape[-1] * y.shape[-1] * table.sizes[2] > entries:
        return ()
    return (("clebsch_gordan", f"a coupling tensor of at most {entries} entries: faster"),)


def coupled_parity(parity: Parity, couplings: str) -> Parity:
    """Parity of a product whose degrees have an even or odd sum, from that of the factors.

    Example:
        >>> coupled_parity(Parity(1, -1), "odd")
        Parity(value=-1, argument=-1)
    """
    argument = -1 if parity.argument is None else parity.argument
    return Parity(parity.value * (argument if couplings == "odd" else 1), argument)

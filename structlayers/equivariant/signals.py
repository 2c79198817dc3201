"""Signals on the sphere as users pass them: plain coefficients, or `e3nn_jax.IrrepsArray`.

Plain: `(*B, (L + 1)^2)`, all degrees 0 to L. An `IrrepsArray` holds the same if its irreps are
those degrees in their order, each once with the same multiplicity C, and parities
`p_val p_arg^l`: a scalar field of true or pseudo values on directions. Then C is the last leading
axis, `(*B, C, (L + 1)^2)`. e3nn is not imported before a user's own signals need it.
"""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from structlayers._core.checks import require_real
from structlayers._core.precision import accumulation_dtype

if TYPE_CHECKING:
    import e3nn_jax


@dataclasses.dataclass(frozen=True)
class Parity:
    """How a signal transforms under inversion: degree l by `value argument^l`.

    Attributes:
        value: 1 or -1.
        argument: 1 or -1, or None where degree 0 alone leaves it open.
    """

    value: int
    argument: int | None


def is_irreps_array(x: Any) -> bool:
    """Whether x is an `e3nn_jax.IrrepsArray`.

    Example:
        >>> is_irreps_array(jnp.ones(4))
        False
    """
    module = sys.modules.get("e3nn_jax")
    return module is not None and isinstance(x, module.IrrepsArray)


def lmax_of(name: str, x: Any) -> int:
    """The largest degree of coefficients `(*B, (L + 1)^2)`.

    Raises:
        ValueError: a last axis that is no square.

    Example:
        >>> lmax_of("x", jnp.ones((5, 9)))
        2
    """
    size = x.shape[-1] if x.ndim else 0
    root = round(size**0.5)
    if root < 1 or root * root != size:
        raise ValueError(
            f"{name} must have shape (*B, (L + 1)^2), all degrees 0 to L on the last axis: "
            f"1, 4, 9, 16, ... coefficients; got {x.shape}"
        )
    return root - 1


def check_irreps(name: str, irreps: "e3nn_jax.Irreps") -> Parity:
    """The parity of a field on directions.

    Raises:
        ValueError: other irreps, by name.
    """
    entries = [(mul_ir.mul, mul_ir.ir.l, mul_ir.ir.p) for mul_ir in irreps]
    multiplicity = entries[0][0] if entries else 0
    values = {p for _, degree, p in entries if degree % 2 == 0}
    odd = {p for _, degree, p in entries if degree % 2 == 1}
    fits = [entry[:2] for entry in entries] == [(multiplicity, n) for n in range(len(entries))]
    if not multiplicity or not fits or len(values) != 1 or len(odd) > 1:
        raise ValueError(
            f"{name} must hold degrees 0 to L in their order, each once with one multiplicity C "
            f"and parities p_val p_arg^l, such as 8x0e+8x1o+8x2e; got {irreps}"
        )
    value = values.pop()
    return Parity(value, odd.pop() * value if odd else None)


def unpack(name: str, x: Any) -> tuple[jax.Array, Parity | None]:
    """Coefficients `(*B, (L + 1)^2)` of a signal, and its parity if it has one.

    Raises:
        TypeError: not real floating point.
        ValueError: irreps or a shape that do not fit.

    Example:
        >>> unpack("x", jnp.ones((2, 4)))[1] is None
        True
    """
    parity = None
    if is_irreps_array(x):
        parity = check_irreps(name, x.irreps)
        x = x.mul_to_axis().array
    x = jnp.asarray(x)
    require_real(name, x)
    lmax_of(name, x)
    return x, parity


def pack(x: jax.Array, parity: Parity | None) -> Any:
    """Coefficients as the user's own kind of signal: an `IrrepsArray` if there is a parity.

    Example:
        >>> import e3nn_jax
        >>> str(pack(jnp.ones((8, 4)), Parity(1, -1)).irreps)
        '8x0e+8x1o'
    """
    if parity is None:
        return x
    import e3nn_jax

    argument = -1 if parity.argument is None else parity.argument
    irreps = e3nn_jax.Irreps("")
    for degree in range(lmax_of("x", x) + 1):
        irreps = irreps + e3nn_jax.Irrep(degree, parity.value * argument**degree)
    return e3nn_jax.IrrepsArray(irreps, x).axis_to_mul()


def product_parity(x: Parity | None, y: Parity | None) -> Parity | None:
    """The parity of a product of two signals.

    Raises:
        TypeError: one of them is an `IrrepsArray` and the other is not.
        ValueError: parities of the argument that differ.

    Example:
        >>> product_parity(Parity(-1, -1), Parity(1, None))
        Parity(value=-1, argument=-1)
    """
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise TypeError("x and y must both be IrrepsArray, or both plain arrays of coefficients")
    if None not in (x.argument, y.argument) and x.argument != y.argument:
        raise ValueError(
            "x and y must be fields on the same kind of directions: parities p_val p_arg^l with "
            f"one p_arg, got p_arg = {x.argument} for x and {y.argument} for y"
        )
    return Parity(x.value * y.value, y.argument if x.argument is None else x.argument)


def widen(x: jax.Array) -> jax.Array:
    """The signal in the dtype that products are computed in: float32 at least."""
    return x.astype(accumulation_dtype(x.dtype))

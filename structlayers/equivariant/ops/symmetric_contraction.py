"""`symmetric_contraction`: equivariant polynomials of one vector, by exact couplings."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from structlayers._core.checks import require_positive, require_real
from structlayers._core.precision import (
    PrecisionLike,
    canonicalize_precision,
)
from structlayers.equivariant.ops.arguments import check_leading, to_rank
from structlayers.equivariant.ops.operands import merge_channels, path_weights, split_channels
from structlayers.equivariant.signals import is_irreps_array, widen
from structlayers.equivariant.symmetric_basis import SymmetricBasis, symmetric_basis

if TYPE_CHECKING:
    from structlayers.equivariant.xla.terms import Form


def symmetric_path_counts(irreps: Any, irreps_out: Any, order: int) -> tuple[int, ...]:
    """Numbers of weights of `symmetric_contraction`, for the orders 1..nu.

    Args:
        irreps: of the vector, without multiplicities.
        irreps_out: of the result.
        order: nu.

    Returns:
        For each order, paths to all irreps of the result.

    Example:
        >>> symmetric_path_counts("0e + 1o + 2e + 3o", "0e + 1o + 2e", 3)
        (3, 12, 34)
    """
    return tuple(basis.irreps.num_irreps for basis in _bases(irreps, irreps_out, order))


def _bases(irreps: Any, irreps_out: Any, order: int) -> list[SymmetricBasis]:
    import e3nn_jax as e3nn

    order = require_positive("order", order)
    given = e3nn.Irreps([(1, ir) for _, ir in e3nn.Irreps(irreps)])
    kept = e3nn.Irreps([(1, ir) for _, ir in e3nn.Irreps(irreps_out)])
    return [symmetric_basis(given, power, kept) for power in range(1, order + 1)]


def symmetric_contraction(
    x: Any,
    weights: Sequence[ArrayLike],
    *,
    irreps_out: Any,
    irreps_in: Any = None,
    precision: PrecisionLike = None,
) -> Any:
    r"""Sum of the equivariant polynomials of a vector up to an order, channel by channel.

    .. math:: y_m = \sum_{\nu} \sum_p w^{\nu}_p \sum_{i_1 .. i_{\nu}}
        U^{\nu p}_{i_1 .. i_{\nu} m} x_{i_1} \cdots x_{i_{\nu}}

    The many-body product of MACE; U is an orthonormal basis of symmetric couplings, applied to
    monomials, each computed once.

    Args:
        x: irreps array `(..., C d)`, irreps of one multiplicity C; or array `(..., C, d)`.
        weights: for each order 1..nu, `(..., P)`, whose leading axes broadcast with those of x and
            the channels C, the last of them; P by `symmetric_path_counts`, paths to the first
            irrep of the result first.
        irreps_out: irreps of the result; each must be among the polynomials of some order.
        irreps_in: of an array, without multiplicities; None for an irreps array.
        precision: of float32 matrix products; None is the highest.

    Returns:
        Irreps array `(..., C d_out)`, irreps sorted as e3nn does; or array `(..., C, d_out)`.

    Raises:
        TypeError: x is neither an irreps array nor given with its irreps, or not real floating
            point.
        ValueError: weights of another number or shape; multiplicities that differ; an irrep that
            no polynomial has.

    Example:
        >>> import e3nn_jax as e3nn
        >>> x = e3nn.IrrepsArray("1x1o", jnp.array([1.0, 2.0, 2.0]))
        >>> weights = [jnp.zeros(0), jnp.ones(1)]
        >>> y = symmetric_contraction(x, weights, irreps_out="0e")
        >>> abs(y.array * 3**0.5).round(5).tolist()  # the square of the length
        [9.0]
        >>> x = jnp.ones((5, 8, 4))  # 8 channels
        >>> symmetric_contraction(x, [jnp.ones(1)], irreps_out="0e", irreps_in="0e + 1o").shape
        (5, 8, 1)

    References:
        Batatia, Kovacs, Simm, Ortner, Csanyi, "MACE: Higher Order Equivariant Message Passing
        Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697, equation 10.
    """
    import e3nn_jax as e3nn

    array, irreps = _operand(x, irreps_in)
    kept = e3nn.Irreps([(1, ir) for _, ir in e3nn.Irreps(irreps_out)]).sort().irreps
    bases = _bases(e3nn.Irreps([(1, ir) for ir in irreps]), kept, len(weights))
    for _, ir in kept:
        if not any(ir in basis.irreps for basis in bases):
            given = x.irreps if irreps_in is None else irreps_in
            raise ValueError(
                f"irreps_out has {ir}, which {given} does not give in {len(weights)} or fewer "
                "factors"
            )
    require_real("x", array)
    dtype, array = array.dtype, widen(array)
    given = [
        path_weights(f"weights[{i}]", weight, basis.irreps.num_irreps, array.dtype)
        for i, (weight, basis) in enumerate(zip(weights, bases, strict=True))
    ]
    rank = check_leading(x=array, **{f"weights[{i}]": w for i, w in enumerate(given)})
    array, *given = (to_rank(operand, rank) for operand in (array, *given))
    out = _contract(array, given, bases, kept, canonicalize_precision(precision))
    out = out.astype(dtype)
    return out if irreps_in is not None else merge_channels(out, [ir for _, ir in kept])


def _operand(x: Any, irreps_in: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    """`(..., C, d)` and its irreps."""
    import e3nn_jax as e3nn

    if is_irreps_array(x) == (irreps_in is not None):
        wanted = "None for an IrrepsArray" if irreps_in is not None else "given for an array"
        raise TypeError(
            f"x must be an e3nn_jax.IrrepsArray, or an array with its irreps: irreps_in must be "
            f"{wanted}, got {type(x).__name__} and {irreps_in}"
        )
    if irreps_in is None:
        array, irreps, _ = split_channels("x", x)
        return array, irreps
    array, irreps = jnp.asarray(x), tuple(ir for _, ir in e3nn.Irreps(irreps_in))
    size = sum(ir.dim for ir in irreps)
    if array.ndim < 2 or array.shape[-1] != size:
        raise ValueError(
            f"x must have shape (..., C, {size}) for irreps_in {irreps_in}, got {array.shape}"
        )
    return array, irreps


@functools.cache
def _monomials(basis: SymmetricBasis, size: int) -> "Form":
    """One term each: their derivatives are sums, where those of gathers add up in memory."""
    from structlayers.equivariant.xla.terms import Form

    order, count = basis.indices.shape
    each = np.arange(count, dtype=np.int32)
    return Form((size,) * order + (count,), (*basis.indices, each), np.ones(count))


def _contract(
    x: jax.Array,
    weights: Sequence[jax.Array],
    bases: Sequence[SymmetricBasis],
    kept: Any,
    precision: jax.lax.Precision,
) -> jax.Array:
    """`(..., d)` to `(..., d_out)`: monomials, one matrix product an order, weighted paths."""
    # not when the library is imported: a primitive of JAX's brings Pallas in
    from structlayers.equivariant.xla.terms import sum_terms

    lead = jnp.broadcast_shapes(x.shape[:-1], *(weight.shape[:-1] for weight in weights))
    parts = {ir: jnp.zeros((*lead, ir.dim), x.dtype) for _, ir in kept}
    for weight, basis in zip(weights, bases, strict=True):
        order = len(basis.indices)
        form = _monomials(basis, x.shape[-1])
        monomials = sum_terms([x] * order, form, tuple(range(order)), order)
        values = jnp.matmul(monomials, jnp.asarray(basis.matrix, x.dtype), precision=precision)
        start = 0
        for (paths, ir), at in zip(basis.irreps, basis.irreps.slices(), strict=True):
            each = values[..., at].reshape(*values.shape[:-1], paths, ir.dim)
            mixed = weight[..., start : start + paths]
            parts[ir] = parts[ir] + jnp.einsum("...pm,...p->...m", each, mixed, precision=precision)
            start += paths
    return jnp.concatenate(list(parts.values()), axis=-1)

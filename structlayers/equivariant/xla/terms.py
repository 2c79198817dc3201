"""Sums over the non-zero terms of a multilinear form as reductions, in derivatives of any order.

A term multiplies one component of each factor. Sorted by the component of the result, and filled
up to as many for each, terms are gathered and summed: one loop that writes every result once.
Plain differentiation makes of a gather an addition in memory, on a GPU by atomics. But the sum is
linear in every factor, and its transpose is the same sum with the terms sorted by another
component, so it is a primitive of JAX with that rule.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers._core.partitioning import vary_alike
from structlayers.equivariant.paths import PathTable


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """Terms, each with an index on every axis; compared by identity, so to be made once.

    Attributes:
        sizes: numbers of components of the axes.
        indices: for each axis int32 `(T,)`.
        values: float64 `(T,)`.
    """

    sizes: tuple[int, ...]
    indices: tuple[np.ndarray, ...]
    values: np.ndarray


def sum_terms(
    factors: Sequence[jax.Array], form: Form, axes: tuple[int, ...], result: int
) -> jax.Array:
    """The form applied to factors, which alone are kept.

    Args:
        factors: each `(..., size of its axis)`, float32 or float64, of one rank and dtype; leading
            axes broadcast.
        form: its terms.
        axes: for each factor its axis; on an axis without factor or result, sums.
        result: axis of the result.

    Returns:
        `(..., size of its axis)`.
    """

    @jax.checkpoint
    def product(*factors: jax.Array) -> jax.Array:
        return _sum_p.bind(*_spread(factors), form=form, axes=axes, result=result)

    return product(*factors)


@functools.cache
def coupling_form(table: PathTable) -> Form:
    """The form of a coupling table; its axes are x, y, the product and the weights of paths."""
    terms = table.terms()
    indices = (terms.index1, terms.index2, terms.index3, terms.path)
    return Form((*table.sizes, len(table.paths)), indices, terms.value)


def _spread(factors: Sequence[jax.Array]) -> list[jax.Array]:
    """Of the same leading axes, sharded and varying alike, components whole."""
    lead = jnp.broadcast_shapes(*(factor.shape[:-1] for factor in factors))
    shapes = [(*lead, factor.shape[-1]) for factor in factors]
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        spread = map(jnp.broadcast_to, factors, shapes)
        return vary_alike(list(spread))
    specs = [jax.typeof(factor).sharding.spec for factor in factors]
    *axes, _ = zip(*specs, strict=True)
    whole = P(*(next(filter(None, each), None) for each in axes))
    return [
        jax.sharding.reshard(jnp.broadcast_to(factor, shape, out_sharding=P(*spec)), whole)
        for factor, shape, spec in zip(factors, shapes, specs, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def _layout(form: Form, axes: tuple[int, ...], result: int) -> tuple[list[np.ndarray], np.ndarray]:
    """For each component of the result the same number of terms: indices of factors, and values.

    Those that fill up repeat a term of the component, with value 0.
    """
    column = form.indices[result]
    counts = np.bincount(column, minlength=form.sizes[result])
    starts = np.minimum(np.cumsum(counts) - counts, len(column) - 1)
    slot = np.arange(counts.max())
    filled = slot < counts[:, None]
    places = np.where(filled, starts[:, None] + slot, starts[:, None])
    chosen = np.argsort(column, kind="stable")[places]
    return [form.indices[axis][chosen] for axis in axes], np.where(filled, form.values[chosen], 0.0)


# On a GPU a sum of fewer than 32 is a loop of one thread, unless as many divide 32. A warp for each
# takes 1.2 us where that takes 5.1 (10 terms, 16 rows), 28 where it takes 75 (28 terms, 10,000
# rows); up to 16 terms it pays up to this many products, with those that fill up (gpu.md).
_WARP = 32
_WARPS_PAY = 2**20


def _reduced(
    *factors: jax.Array, form: Form, axes: tuple[int, ...], result: int, warps: bool = False
) -> jax.Array:
    """All terms of a row at once: one kernel where gathers and the sum are fused."""
    indices, values = _layout(form, axes, result)
    size, count = values.shape
    whole = -(-count // _WARP) * _WARP
    enough = count > _WARP // 2 or math.prod(factors[0].shape[:-1]) * size * whole <= _WARPS_PAY
    if warps and count > 1 and enough:
        indices = [np.pad(index, ((0, 0), (0, whole - count)), mode="edge") for index in indices]
        values = np.pad(values, ((0, 0), (0, whole - count)))
    gathered = (factor[..., index] for factor, index in zip(factors, indices, strict=True))
    products = functools.reduce(jnp.multiply, gathered)
    shape = (1,) * (products.ndim - 2) + values.shape
    return jnp.sum(products * jnp.asarray(values, products.dtype).reshape(shape), axis=-1)


def _looped(*factors: jax.Array, form: Form, axes: tuple[int, ...], result: int) -> jax.Array:
    """A term of every component at a time, of all rows: what a CPU does in vectors."""
    indices, values = _layout(form, axes, result)
    if values.shape[1] == 1:  # nothing to sum
        return _reduced(*factors, form=form, axes=axes, result=result)
    columns = [jnp.moveaxis(factor, -1, 0) for factor in factors]
    lead = columns[0].shape[1:]

    def product(chosen: list[jax.Array], value: jax.Array) -> jax.Array:
        gathered = (column[index] for column, index in zip(columns, chosen, strict=True))
        return functools.reduce(jnp.multiply, gathered) * value.reshape(-1, *(1 for _ in lead))

    def add(total: jax.Array, term: Any) -> tuple[jax.Array, None]:
        return total + product(*term), None

    each = [jnp.asarray(index.T) for index in indices], jnp.asarray(values.T, columns[0].dtype)
    first, rest = (jax.tree.map(lambda of, at=at: of[at], each) for at in (0, slice(1, None)))
    # begun with a term: it has the type of a sum, wherever it is sharded or varies
    total, _ = jax.lax.scan(add, product(*first), rest)
    return jnp.moveaxis(total, 0, -1)


def _type(*factors: Any, form: Form, axes: tuple[int, ...], result: int) -> Any:
    del axes
    return factors[0].update(shape=(*factors[0].shape[:-1], form.sizes[result]))


def _jvp(
    factors: Sequence[jax.Array], tangents: Sequence[Any], **static: Any
) -> tuple[jax.Array, jax.Array]:
    parts = [
        _sum_p.bind(*factors[:i], tangent, *factors[i + 1 :], **static)
        for i, tangent in enumerate(tangents)
        if not isinstance(tangent, ad.Zero)
    ]
    return _sum_p.bind(*factors, **static), functools.reduce(jnp.add, parts)


def _transpose(
    cotangent: Any, *factors: Any, form: Form, axes: tuple[int, ...], result: int
) -> list[Any]:
    """With regard to the one factor that is linear: it and the result change places."""
    (at,) = (i for i, factor in enumerate(factors) if ad.is_undefined_primal(factor))
    found: list[Any] = [None] * len(factors)
    if isinstance(cotangent, ad.Zero):
        found[at] = ad.Zero(factors[at].aval)
        return found
    swapped = (*axes[:at], result, *axes[at + 1 :])
    given = (*factors[:at], cotangent, *factors[at + 1 :])
    found[at] = _sum_p.bind(*given, form=form, axes=swapped, result=axes[at])
    return found


def _batch(
    factors: Sequence[jax.Array], dims: Sequence[int | None], **static: Any
) -> tuple[jax.Array, int]:
    pairs = zip(factors, dims, strict=True)
    moved = [x[None] if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in pairs]
    return _sum_p.bind(*_spread(moved), **static), 0


_sum_p = Primitive("sum_terms")
_sum_p.def_impl(jax.jit(_sum_p.bind, static_argnames=("form", "axes", "result")))
_sum_p.def_abstract_eval(_type)
ad.primitive_jvps[_sum_p] = _jvp
ad.primitive_transposes[_sum_p] = _transpose
batching.primitive_batchers[_sum_p] = _batch
mlir.register_lowering(_sum_p, mlir.lower_fun(_reduced, multiple_results=False))
mlir.register_lowering(_sum_p, mlir.lower_fun(_looped, multiple_results=False), platform="cpu")
mlir.register_lowering(
    _sum_p,
    mlir.lower_fun(functools.partial(_reduced, warps=True), multiple_results=False),
    platform="gpu",
)

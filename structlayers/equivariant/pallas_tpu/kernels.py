"""The kernel on signals with rows in the lanes: `((L + 1)^2, R)` or, by channels, `(.., B, C)`.

A step has the coefficients of some thousand rows; 256 of them at a time are evaluated, multiplied
and projected. Tables lie in VMEM once, values on the grid nowhere else. The coefficients of 128
channels lie in 8 B rows each, one row in all registers: they are loaded and stored with a stride.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers._core.pallas import tpu_compiler_params, tpu_whole
from structlayers._core.partitioning import result_struct
from structlayers.equivariant.pallas_tpu.arithmetic import stack_values
from structlayers.equivariant.pallas_tpu.memory import LANES, Layout
from structlayers.equivariant.pallas_tpu.tables import padded
from structlayers.equivariant.pointwise import Product


class Settings(NamedTuple):
    """What a kernel is made for; a part of every key under which JAX keeps what it has traced.

    Attributes:
        degrees: of the inputs.
        products: of the inputs.
        parts: bfloat16 values that a float32 is taken for.
        layout: how rows are cut.
        vmem: bytes of VMEM that there are.
        interpret: what `pl.pallas_call` takes by this name.
    """

    degrees: tuple[int, ...]
    products: tuple[Product, ...]
    parts: int
    layout: Layout
    vmem: int
    interpret: Any

    @property
    def kept(self) -> tuple[int, ...]:
        """Degrees of the results."""
        return tuple(product.degree for product in self.products)

    def widened(self, dtype: Any) -> bool:
        """Whether blocks are brought to float32 first: packed rows have no loads with a stride."""
        return len(self.layout.steps) == 2 and dtype == jnp.bfloat16


def multiply(
    settings: Settings, tables: Sequence[jax.Array], arrays: Sequence[jax.Array]
) -> list[jax.Array]:
    """Products of signals.

    Args:
        settings: of the call.
        tables: those that evaluate inputs, by ascending degree without repetition; those that
            project results likewise, even and odd.
        arrays: `((L + 1)^2, R)` or `((L + 1)^2, B, C)` each, all float32 or all bfloat16; as many
            axes behind the first as the layout has.

    Returns:
        `((degree + 1)^2, ...)` for each product, in the dtype of the arrays.
    """
    layout, rows = settings.layout, arrays[0].shape[1:]
    dtype = arrays[0].dtype

    def block(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((size, *layout.block), lambda *step: (0, *step))

    sizes = [(degree + 1) ** 2 for degree in settings.kept]
    multiplications = sum(table.size for table in tables)
    traffic = sum(x.nbytes for x in (*tables, *arrays))
    call = pl.pallas_call(
        functools.partial(_kernel, settings),
        grid=layout.steps,
        in_specs=[
            *(tpu_whole(table.shape, lambda *step: (0, 0)) for table in tables),
            *(block(x.shape[0]) for x in arrays),
        ],
        out_specs=[block(size) for size in sizes],
        out_shape=[result_struct((size, *rows), dtype, *arrays) for size in sizes],
        scratch_shapes=[
            pltpu.VMEM((size, *layout.block), jnp.float32)
            for size in ([x.shape[0] for x in arrays] + sizes if settings.widened(dtype) else [])
        ],
        compiler_params=tpu_compiler_params(("parallel",) * len(layout.steps), settings.vmem),
        cost_estimate=pl.CostEstimate(
            flops=2 * multiplications * math.prod(rows),
            bytes_accessed=traffic + sum(sizes) * math.prod(rows) * dtype.itemsize,
            transcendentals=0,
        ),
        interpret=settings.interpret,
        name="gaunt_" + "_".join(map(str, (*settings.degrees, "to", *settings.kept))),
    )
    return list(call(*tables, *arrays))


def _kernel(settings: Settings, *refs: Any) -> None:
    remaining = iter(refs)
    evaluating = {degree: next(remaining) for degree in sorted(set(settings.degrees))}
    projecting = {
        degree: [next(remaining) for _ in range(min(degree, 1) + 1)]
        for degree in sorted(set(settings.kept))
    }
    inputs = [next(remaining) for _ in settings.degrees]
    outputs = [next(remaining) for _ in settings.kept]
    packed: list[tuple[Any, Any]] = []
    if settings.widened(outputs[0].dtype):
        wide = [next(remaining) for _ in inputs]
        for x, narrow in zip(wide, inputs, strict=True):
            x[...] = narrow[...].astype(jnp.float32)
        inputs, packed = wide, list(zip(outputs, remaining, strict=True))
        outputs = [z for _, z in packed]
    chunk = settings.layout.chunk

    def compute(index: Any, _: None) -> None:
        values = [
            _dot(evaluating[degree][...], stack_values(_read(x, index, chunk), settings.parts))
            for degree, x in zip(settings.degrees, inputs, strict=True)
        ]
        known: dict[tuple[int, ...], jax.Array] = {(i,): f for i, f in enumerate(values)}
        for product, out in zip(settings.products, outputs, strict=True):
            total = _sum_of_terms(product, known)
            z = _project(total, projecting[product.degree], product.degree, settings.parts)
            _write(out, index, z.astype(out.dtype))

    lax.fori_loop(0, settings.layout.chunks, compute, None)
    for narrow, z in packed:
        narrow[...] = z[...].astype(narrow.dtype)


def _places(ref: Any, index: Any, chunk: int) -> list[Any]:
    """Where the rows of a chunk lie in a block, side by side in the lanes."""
    if len(ref.shape) == 2:
        return [(slice(None), pl.ds(pl.multiple_of(index * chunk, chunk), chunk))]
    count = chunk // LANES
    return [(slice(None), index * count + i, slice(None)) for i in range(count)]


def _write(ref: Any, index: Any, values: jax.Array) -> None:
    places = _places(ref, index, values.shape[1])
    for place, part in zip(places, jnp.split(values, len(places), axis=1), strict=True):
        ref[place] = part


def _read(ref: Any, index: Any, chunk: int) -> jax.Array:
    """A chunk in float32, with zeros up to the depth of the tables."""
    parts = [ref[place] for place in _places(ref, index, chunk)]
    x = jnp.concatenate(parts, axis=1).astype(jnp.float32)
    missing = padded(len(x)) - len(x)
    if not missing:
        return x
    return jnp.concatenate([x, jnp.zeros((missing, x.shape[1]), jnp.float32)], axis=0)


def _dot(table: jax.Array, values: jax.Array) -> jax.Array:
    return lax.dot_general(
        table, values, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )


def _sum_of_terms(product: Product, known: dict[tuple[int, ...], jax.Array]) -> jax.Array:
    """The values of a result; products of the first factors are kept for others."""
    total = None
    for term in product.terms:
        for count in range(2, len(term.factors) + 1):
            factors = term.factors[:count]
            if factors not in known:
                known[factors] = known[factors[:-1]] * known[factors[-1:]]
        value = known[term.factors]
        if term.scale != 1:
            value = value * jnp.float32(term.scale)
        total = value if total is None else total + value
    assert total is not None
    return total


def _project(values: jax.Array, tables: Sequence[Any], lmax: int, parts: int) -> jax.Array:
    """Coefficients in order from values at points and, after them, at their antipodes."""
    here, there = jnp.split(values, 2, axis=0)
    halves = (here + there, here - there)
    projected = [
        _dot(table[...], stack_values(half, parts))
        for table, half in zip(tables, halves, strict=False)
    ]
    pieces, starts = [], [0, 0]
    for degree in range(lmax + 1):
        parity, size = degree % 2, 2 * degree + 1
        pieces.append(projected[parity][starts[parity] : starts[parity] + size])
        starts[parity] += size
    assert math.isqrt(sum(starts)) == lmax + 1
    return jnp.concatenate(pieces, axis=0)

"""The two kernels: a Monarch matrix applied to a tile of rows in VMEM, and all its gradients.

A product of every group of first blocks, an exchange between the groups, a product of every group
of second blocks, and an exchange that ends in the order of the outputs. The values in between stay
in VMEM, rounded to the dtype of the data, as words of 32 bits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers._core.pallas import tpu_compiler_params, tpu_whole
from structlayers._core.partitioning import result_struct
from structlayers.butterfly.pallas_tpu.chain import LANES
from structlayers.butterfly.pallas_tpu.monarch.exchange import (
    exchange,
    from_outputs,
    load_all,
    middle_lanes,
    move,
    output_lanes,
    store_all,
    to_outputs,
)
from structlayers.butterfly.pallas_tpu.monarch.groups import Groups, tile_rows

# Groups whose products are written out one after the other in a loop.
_UNROLL = 8


class Settings(NamedTuple):
    """How the kernels run here; a part of every key under which JAX keeps what it has traced.

    Attributes:
        groups: sizes.
        precision: of float32 matrix products.
        vmem: bytes of VMEM that there are.
        interpret: what `pl.pallas_call` takes by this name.
    """

    groups: Groups
    precision: lax.Precision
    vmem: int
    interpret: Any


def _dot(settings: Settings, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        # bfloat16 operands are multiplied as they are
        precision=settings.precision if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _for_each_group(settings: Settings, body: Callable[[Any], None]) -> None:
    count = settings.groups.count

    def step(index: Any, carry: Any) -> Any:
        body(index)
        return carry

    unroll = 1 if settings.interpret else min(count, _UNROLL)
    lax.fori_loop(0, count, step, 0, unroll=unroll)


def _columns(group: Any, size: int) -> Any:
    return pl.multiple_of(group * size, LANES)


def _multiply(
    settings: Settings, source: Any, weights: Any, target: Any, valid: Any = None
) -> None:
    """The product of every group, rows `(T, G inputs)` to `(T, G outputs)`."""
    _, inputs, outputs = weights.shape

    def of_group(group: Any) -> None:
        x = load_all(source, weights.dtype, _columns(group, inputs), inputs, valid)
        out = _dot(settings, x, weights[group], 1, 0)
        store_all(target, weights.dtype, _columns(group, outputs), out)

    _for_each_group(settings, of_group)


def _pull_back(
    settings: Settings,
    source: Any,
    cotangent: Any,
    weights: Any,
    target: Any,
    gradient: Any,
    valid: Any = None,
) -> None:
    """Adds up the gradient of the weights, writes that of the source; it may be the target."""
    _, inputs, outputs = weights.shape

    def of_group(group: Any) -> None:
        lane = _columns(group, inputs)
        x = load_all(source, weights.dtype, lane, inputs, valid)
        dy = load_all(cotangent, weights.dtype, _columns(group, outputs), outputs)
        gradient[group] += _dot(settings, x, dy, 0, 0)
        pulled = _dot(settings, dy, weights[group], 1, 1)
        store_all(target, weights.dtype, lane, pulled)

    _for_each_group(settings, of_group)


def _forward_kernel(
    settings: Settings, x: Any, first: Any, second: Any, y: Any, middle: Any, columns: Any
) -> None:
    groups = settings.groups
    rearrange = functools.partial(move, groups.count, unroll=not settings.interpret)
    _multiply(settings, x, first, middle)
    rearrange(middle, middle, exchange, middle_lanes(groups))
    _multiply(settings, middle, second, columns)
    rearrange(columns, y, to_outputs, output_lanes(groups))


def forward(x: jax.Array, first: jax.Array, second: jax.Array, settings: Settings) -> jax.Array:
    """Applies a Monarch matrix.

    Args:
        x: `(B, k p)`, B at least 16.
        first: `(G, inputs, middle)` of the same dtype, see `weights.pack`.
        second: `(G, middle, outputs)`.
        settings: how to run.

    Returns:
        `(B, s l)` of the dtype of `x`.
    """
    groups, batch = settings.groups, len(x)
    rows = tile_rows(groups, x.dtype.itemsize, batch, settings.vmem, backward=False)
    widths = [groups.count * side for side in (groups.inputs, groups.middle, groups.outputs)]
    return pl.pallas_call(
        functools.partial(_forward_kernel, settings),
        grid=(pl.cdiv(batch, rows),),
        in_specs=[_tile_spec(rows, widths[0]), _whole(first), _whole(second)],
        out_specs=_tile_spec(rows, widths[2]),
        out_shape=result_struct((batch, widths[2]), x.dtype, x, first, second),
        scratch_shapes=[_words_spec(rows, width, x.dtype) for width in widths[1:]],
        compiler_params=tpu_compiler_params(("parallel",), settings.vmem),
        interpret=settings.interpret,
    )(x, first, second)


def _tile_spec(rows: int, width: int) -> Any:
    return pl.BlockSpec((rows, width), lambda i: (i, 0))


def _words_spec(rows: int, width: int, dtype: Any) -> Any:
    # words: rows of bfloat16 would be stored half a register at a time
    return pltpu.VMEM((rows * dtype.itemsize // 4, width), jnp.uint32)


def _whole(weights: jax.Array | jax.ShapeDtypeStruct) -> Any:
    return tpu_whole(weights.shape, lambda i: (0, 0, 0))


def _backward_kernel(
    settings: Settings,
    batch: int,
    x: Any,
    dy: Any,
    first: Any,
    second: Any,
    dx: Any,
    dfirst: Any,
    dsecond: Any,
    middle: Any,
    columns: Any,
) -> None:
    groups, rows = settings.groups, x.shape[0]

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for gradient in (dfirst, dsecond):
            gradient[...] = jnp.zeros_like(gradient)

    # what lies beyond the batch is not in the array, and must not be in a sum
    valid = batch - pl.program_id(0) * rows if batch % rows else None
    rearrange = functools.partial(move, groups.count, unroll=not settings.interpret)
    _multiply(settings, x, first, middle, valid)
    rearrange(middle, middle, exchange, middle_lanes(groups))
    outputs = ((goals, runs) for runs, goals in output_lanes(groups))
    rearrange(dy, columns, from_outputs, outputs, valid=valid)
    _pull_back(settings, middle, columns, second, middle, dsecond)
    back = functools.partial(exchange, back=True)
    rearrange(middle, middle, back, middle_lanes(groups))
    _pull_back(settings, x, middle, first, dx, dfirst, valid)


def backward(
    x: jax.Array, dy: jax.Array, first: jax.Array, second: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of `forward`.

    Args:
        x: as in `forward`.
        dy: `(B, s l)`.
        first: as in `forward`.
        second: as in `forward`.
        settings: how to run.

    Returns:
        That of `x`, and float32 arrays like the matrices.
    """
    groups, batch = settings.groups, len(x)
    rows = tile_rows(groups, x.dtype.itemsize, batch, settings.vmem, backward=True)
    widths = [groups.count * side for side in (groups.inputs, groups.middle, groups.outputs)]
    operands = (x, dy, first, second)
    structs = [result_struct(w.shape, jnp.float32, *operands) for w in (first, second)]
    return pl.pallas_call(
        functools.partial(_backward_kernel, settings, batch),
        grid=(pl.cdiv(batch, rows),),
        in_specs=[
            _tile_spec(rows, widths[0]),
            _tile_spec(rows, widths[2]),
            _whole(first),
            _whole(second),
        ],
        out_specs=[_tile_spec(rows, widths[0]), *map(_whole, structs)],
        out_shape=[result_struct(x.shape, x.dtype, *operands), *structs],
        scratch_shapes=[_words_spec(rows, width, x.dtype) for width in widths[1:]],
        compiler_params=tpu_compiler_params(("arbitrary",), settings.vmem),
        interpret=settings.interpret,
    )(x, dy, first, second)

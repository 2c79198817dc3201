"""The two kernels: a chain applied to a batch, and all its gradients, in one pass over memory.

The grid is (stacks, tiles of rows). Weights stay in VMEM while the tiles of a stack pass, and so do
the float32 sums of their gradients, which the tiles add to one after the other: the result does
not depend on timing.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers._core.pallas import tpu_compiler_params, tpu_whole
from structlayers._core.partitioning import result_struct
from structlayers.butterfly.pallas_tpu import memory
from structlayers.butterfly.pallas_tpu.chain import Chain
from structlayers.butterfly.pallas_tpu.passes import (
    SUBLANES,
    Source,
    Tile,
    apply_pass,
    pull_back_pass,
)

_ROW_STEP = 32


class Settings(NamedTuple):
    """How the kernels run here; a part of every key under which JAX keeps what it has traced.

    Attributes:
        precision: of float32 matrix products.
        vmem: bytes of VMEM that there are.
        interpret: what `pl.pallas_call` takes by this name.
    """

    precision: lax.Precision
    vmem: int
    interpret: Any


def _tile(chain: Chain, x: jax.Array, rows: int, settings: Settings) -> Tile:
    return Tile(
        chain=chain,
        planes=x.shape[0],
        rows=rows,
        row_step=min(rows, _ROW_STEP),
        dtype=x.dtype,
        # bfloat16 operands are multiplied as they are
        precision=settings.precision if x.dtype == jnp.float32 else None,
        unroll=not settings.interpret,
    )


def _weight_spec(weights: jax.Array | jax.ShapeDtypeStruct) -> Any:
    planes, _, *rest = weights.shape
    return tpu_whole((planes, 1, *rest), lambda s, i: (0, s, *(0 for _ in rest)))


def _row_spec(planes: int, rows: int, size: int, shared: bool) -> Any:
    return pl.BlockSpec((planes, rows, size), lambda s, i: (0, i, 0 if shared else s))


def _forward_kernel(tile: Tile, x_ref: Any, *refs: Any) -> None:
    count = len(tile.chain.factors)
    weights, y_ref, scratch = refs[:count], refs[count], refs[count + 1 :]
    passes = tile.chain.passes(memory.MEMBERS)
    source = x_ref
    for index, step in enumerate(passes):
        target = y_ref if index == len(passes) - 1 else scratch[0]
        apply_pass(tile, step, weights, Source(source), target)
        source = target


def forward(
    x: jax.Array, weights: Sequence[jax.Array], chain: Chain, settings: Settings
) -> jax.Array:
    """Applies a chain.

    Args:
        x: ``(planes, B, S N)``, or ``(planes, B, N)`` for one input to all stacks.
        weights: of every factor, see `passes`, with S in place of 1.
        chain: the factors.
        settings: how to run.

    Returns:
        Array ``(planes, B, S N)`` of the dtype of ``x``.
    """
    planes, batch, width = x.shape
    stacks, size = weights[0].shape[1], chain.size
    layout = memory.plan(chain, planes, x.dtype.itemsize, batch, settings.vmem, backward=False)
    rows = layout.rows
    several = len(chain.passes(memory.MEMBERS)) > 1
    return pl.pallas_call(
        functools.partial(_forward_kernel, _tile(chain, x, rows, settings)),
        grid=(stacks, pl.cdiv(batch, rows)),
        in_specs=[_row_spec(planes, rows, size, width == size), *map(_weight_spec, weights)],
        out_specs=_row_spec(planes, rows, size, False),
        out_shape=result_struct((planes, batch, stacks * size), x.dtype, x, *weights),
        scratch_shapes=[pltpu.VMEM((planes, rows, size), jnp.float32)] if several else [],
        compiler_params=tpu_compiler_params(("parallel", "parallel"), settings.vmem),
        interpret=settings.interpret,
    )(x, *weights)


def _backward_kernel(tile: Tile, batch: int, x_ref: Any, dy_ref: Any, *refs: Any) -> None:
    count = len(tile.chain.factors)
    weights, dx_ref, gradients = refs[:count], refs[count], refs[count + 1 : 2 * count + 1]
    passes = tile.chain.passes(memory.MEMBERS)
    last = len(passes) - 1
    states, pulled = refs[2 * count + 1 :][:last], refs[-1]

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for gradient in gradients:
            gradient[...] = jnp.zeros_like(gradient)

    # what lies beyond the batch is not in the array, and must not be in a sum
    valid = batch - pl.program_id(1) * tile.rows if batch % tile.rows else None
    sources = [Source(x_ref, valid), *map(Source, states)]
    for index in range(last):
        apply_pass(tile, passes[index], weights, sources[index], states[index])
    for index in reversed(range(last + 1)):
        cotangent = Source(dy_ref, valid) if index == last else Source(pulled)
        target = dx_ref if index == 0 else pulled
        pull_back_pass(tile, passes[index], weights, sources[index], cotangent, target, gradients)


def _gradient_shape(weights: jax.Array, lanes: bool) -> tuple[int, ...]:
    shape = weights.shape
    return shape if lanes else (*shape[:-1], SUBLANES, shape[-1])


def backward(
    x: jax.Array,
    dy: jax.Array,
    weights: Sequence[jax.Array],
    chain: Chain,
    settings: Settings,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The gradients of `forward`.

    Args:
        x: as in `forward`.
        dy: ``(planes, B, S N)``.
        weights: as in `forward`.
        chain: the factors.
        settings: how to run.

    Returns:
        That of ``x`` for each stack, ``(planes, B, S N)``, and float32 arrays like the weights.
    """
    planes, batch, width = x.shape
    stacks, size = weights[0].shape[1], chain.size
    layout = memory.plan(chain, planes, x.dtype.itemsize, batch, settings.vmem, backward=True)
    rows = layout.rows
    states = len(chain.passes(memory.MEMBERS)) - 1
    shapes = [
        _gradient_shape(w, factor.mixes_lanes)
        for w, factor in zip(weights, chain.factors, strict=True)
    ]
    structs = [result_struct(shape, jnp.float32, x, dy, *weights) for shape in shapes]
    dx, *sums = pl.pallas_call(
        functools.partial(_backward_kernel, _tile(chain, x, rows, settings), batch),
        grid=(stacks, pl.cdiv(batch, rows)),
        in_specs=[
            _row_spec(planes, rows, size, width == size),
            _row_spec(planes, rows, size, False),
            *map(_weight_spec, weights),
        ],
        out_specs=[_row_spec(planes, rows, size, False), *map(_weight_spec, structs)],
        out_shape=[result_struct(dy.shape, x.dtype, x, dy, *weights), *structs],
        scratch_shapes=[
            pltpu.VMEM((planes, rows, size), jnp.float32) for _ in range(states + (states > 0))
        ],
        compiler_params=tpu_compiler_params(("parallel", "arbitrary"), settings.vmem),
        interpret=settings.interpret,
    )(x, dy, *weights)
    return dx, tuple(
        gradient if factor.mixes_lanes else gradient.sum(-2)
        for gradient, factor in zip(sums, chain.factors, strict=True)
    )

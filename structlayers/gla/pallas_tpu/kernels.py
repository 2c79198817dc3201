"""The two kernels: all chunks of a head one after the other, and back.

The grid is (batch, key heads, steps of several chunks). The state stays in VMEM from step to step,
so does its cotangent on the way back. For gradients the state before every step is kept; the
backward kernel computes those before every chunk again, and differentiates one chunk at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from structlayers._core.pallas import tpu_compiler_params
from structlayers._core.partitioning import result_struct
from structlayers.gla.pallas_tpu import chunk
from structlayers.gla.pallas_tpu.memory import Layout

_SEMANTICS = ("parallel", "parallel", "arbitrary")


class Settings(NamedTuple):
    """What a kernel is made for; a part of every key under which JAX keeps what it has traced.

    Attributes:
        time: tokens of a sequence.
        groups: key heads G.
        shared: query heads of each.
        layout: how the sequence is cut.
        scale: of queries.
        precision: of float32 products.
        vmem: bytes of VMEM that there are.
        interpret: what `pl.pallas_call` takes by this name.
    """

    time: int
    groups: int
    shared: int
    layout: Layout
    scale: float
    precision: lax.Precision
    vmem: int
    interpret: Any


class Inputs(NamedTuple):
    """The arrays of a call, or their blocks. K and V are multiples of 128, C tokens a chunk.

    Attributes:
        q: `(B, T, H K)`.
        k: `(B, T, G K)`.
        v: `(B, T, G V)`.
        gate: float32 `(B, T, G K)`, or of one channel `(B, G, steps, chunks, C)`.
        resets: float32 `(B, 1, steps, chunks, C)`, added to gates of K channels; or None.
        state: float32 `(B, G, V, K)`.
    """

    q: Any
    k: Any
    v: Any
    gate: Any
    resets: Any
    state: Any


class _Chunk(NamedTuple):
    """One chunk's values in float32, as `chunk.attend` takes them."""

    queries: tuple[jax.Array, ...]
    k: jax.Array
    v: jax.Array
    gate: jax.Array


def _rows(settings: Settings, index: Any) -> Any:
    size = settings.layout.chunk
    return pl.ds(pl.multiple_of(index * size, size), size)


def _reader(settings: Settings, step: Any, index: Any) -> Callable[[Any], jax.Array]:
    """Reads a chunk in float32; what lies beyond the sequence is not in the array, and is zero."""
    layout, time = settings.layout, settings.time

    def read(ref: Any) -> jax.Array:
        x = ref[0, _rows(settings, index), :].astype(jnp.float32)
        if time % layout.tokens == 0:
            return x
        row = lax.broadcasted_iota(jnp.int32, x.shape, 0)
        first = step * layout.tokens + index * layout.chunk
        return jnp.where(row < time - first, x, 0.0)

    return read


def _split(x: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The heads that lie beside each other in the lanes."""
    width = x.shape[-1] // count
    return tuple(x[:, i * width : (i + 1) * width] for i in range(count))


def _gate_row(ref: Any, index: Any) -> jax.Array:
    return ref[0, 0, 0, pl.ds(index, 1), :]


def _read_chunk(settings: Settings, refs: Inputs, step: Any, index: Any) -> _Chunk:
    read = _reader(settings, step, index)
    # gates of one channel have the rank of their own layout
    gate = _gate_row(refs.gate, index) if len(refs.gate.shape) == 5 else read(refs.gate)
    if refs.resets is not None:
        gate = gate + chunk.as_column(_gate_row(refs.resets, index))
    queries = _split(read(refs.q) * settings.scale, settings.shared)
    return _Chunk(queries, read(refs.k), read(refs.v), gate)


def _precision(settings: Settings, refs: Inputs) -> lax.Precision | None:
    return None if refs.q.dtype == jnp.bfloat16 else settings.precision


def _forward_kernel(settings: Settings, keeps: bool, refs: Inputs, *rest: Any) -> None:
    out_ref, final_ref = rest[:2]
    carried = rest[-1]
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _() -> None:
        carried[...] = refs.state[0, 0]

    if keeps:
        rest[2][0, 0, 0] = carried[...]

    def body(index: Any, _: None) -> None:
        now = _read_chunk(settings, refs, step, index)
        outputs, state = chunk.attend(*now, carried[...], _precision(settings, refs))
        carried[...] = state
        _write(out_ref, _rows(settings, index), outputs)

    # the scores of a chunk need no state: two chunks at a time overlap
    lax.fori_loop(0, settings.layout.chunks, body, None, unroll=min(2, settings.layout.chunks))

    @pl.when(step == settings.layout.steps - 1)
    def _() -> None:
        final_ref[0, 0] = carried[...]


def _write(ref: Any, rows: Any, heads: tuple[jax.Array, ...]) -> None:
    width = heads[0].shape[-1]
    for i, head in enumerate(heads):
        ref[0, rows, i * width : (i + 1) * width] = head.astype(ref.dtype)


def _backward_kernel(settings: Settings, refs: Inputs, *rest: Any) -> None:
    kept, dout, dfinal, dq, dk, dv, dgate, dstate, carried, states = rest
    layout, precision = settings.layout, _precision(settings, refs)
    step = layout.steps - 1 - pl.program_id(2)

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carried[...] = dfinal[0, 0]

    states[0] = kept[0, 0, 0]

    def forward(index: Any, _: None) -> None:
        now = _read_chunk(settings, refs, step, index)
        sums = chunk.sum_gates(now.gate)
        states[index + 1] = chunk.next_state(now.k, now.v, sums, states[index], precision)

    lax.fori_loop(0, layout.chunks - 1, forward, None)

    def backward(turn: Any, _: None) -> None:
        index = layout.chunks - 1 - turn
        rows = _rows(settings, index)
        now = _read_chunk(settings, refs, step, index)
        cotangents = _split(_reader(settings, step, index)(dout), settings.shared)
        attend = functools.partial(chunk.attend, precision=precision)
        pull = jax.vjp(attend, *now, states[index])[1]
        *gradients, carried[...] = pull((cotangents, carried[...]))
        _write(dq, rows, tuple(settings.scale * x for x in gradients[0]))
        _write(dk, rows, (gradients[1],))
        _write(dv, rows, (gradients[2],))
        if len(dgate.shape) == 5:
            dgate[0, 0, 0, pl.ds(index, 1), :] = gradients[3]
        else:
            _write(dgate, rows, (gradients[3],))

    lax.fori_loop(0, layout.chunks, backward, None)

    @pl.when(pl.program_id(2) == layout.steps - 1)
    def _() -> None:
        dstate[0, 0] = carried[...]


class _Specs(NamedTuple):
    """Blocks of all arrays, for a walk in one direction."""

    inputs: Inputs
    out: Any
    kept: Any
    state: Any


def _specs(settings: Settings, x: Inputs, *, reverse: bool) -> _Specs:
    layout, groups = settings.layout, settings.groups
    value, key = x.state.shape[-2:]

    def at(n: Any) -> Any:
        return layout.steps - 1 - n if reverse else n

    def tokens(width: int) -> Any:
        return pl.BlockSpec((1, layout.tokens, width), lambda b, g, n: (b, at(n), g))

    def rows(count: int) -> Any:
        shape = (1, 1, 1, layout.chunks, layout.chunk)
        return pl.BlockSpec(shape, lambda b, g, n: (b, g if count > 1 else 0, at(n), 0, 0))

    state = pl.BlockSpec((1, 1, value, key), lambda b, g, n: (b, g, 0, 0))
    gate = rows(groups) if x.gate.ndim == 5 else tokens(key)
    resets = None if x.resets is None else rows(1)
    return _Specs(
        Inputs(tokens(settings.shared * key), tokens(key), tokens(value), gate, resets, state),
        tokens(settings.shared * value),
        pl.BlockSpec((1, 1, 1, value, key), lambda b, g, n: (b, g, at(n), 0, 0)),
        state,
    )


def _states_struct(settings: Settings, x: Inputs, operands: list[jax.Array]) -> Any:
    batch, groups, value, key = x.state.shape
    shape = (batch, groups, settings.layout.steps, value, key)
    return result_struct(shape, jnp.float32, *operands)


def forward(x: Inputs, settings: Settings, *, keeps: bool) -> tuple[jax.Array, ...]:
    """Outputs and final states, and for gradients the states before every step.

    Args:
        x: the arrays.
        settings: how to run.
        keeps: whether to return the states.

    Returns:
        `(B, T, H V)` of the dtype of q, float32 `(B, G, V, K)`, and float32
        `(B, G, steps, V, K)`.
    """
    specs = _specs(settings, x, reverse=False)
    operands = jax.tree.leaves(x)
    width = settings.groups * settings.shared * x.state.shape[-2]
    shapes = [
        result_struct((*x.q.shape[:2], width), x.q.dtype, *operands),
        result_struct(x.state.shape, jnp.float32, *operands),
        _states_struct(settings, x, operands),
    ]
    count = 3 if keeps else 2
    return pl.pallas_call(
        functools.partial(_forward_kernel, settings, keeps),
        grid=(x.q.shape[0], settings.groups, settings.layout.steps),
        in_specs=[specs.inputs],
        out_specs=[specs.out, specs.state, specs.kept][:count],
        out_shape=shapes[:count],
        scratch_shapes=[pltpu.VMEM(x.state.shape[-2:], jnp.float32)],
        compiler_params=tpu_compiler_params(_SEMANTICS, settings.vmem),
        interpret=settings.interpret,
    )(x)


def backward(
    x: Inputs, kept: jax.Array, dout: jax.Array, dfinal: jax.Array, settings: Settings
) -> Inputs:
    """The gradients of `forward`; that of the resets is None.

    Args:
        x: the arrays.
        kept: the states before every step.
        dout: `(B, T, H V)`.
        dfinal: float32 `(B, G, V, K)`.
        settings: how to run.
    """
    specs = _specs(settings, x, reverse=True)
    operands = jax.tree.leaves((x, kept, dout, dfinal))
    state = x.state.shape[-2:]
    results = x._replace(resets=None)
    result_specs = specs.inputs._replace(resets=None)
    dq, dk, dv, dgate, dstate = pl.pallas_call(
        functools.partial(_backward_kernel, settings),
        grid=(x.q.shape[0], settings.groups, settings.layout.steps),
        in_specs=[specs.inputs, specs.kept, specs.out, specs.state],
        out_specs=list(jax.tree.leaves(result_specs)),
        out_shape=[result_struct(a.shape, a.dtype, *operands) for a in jax.tree.leaves(results)],
        scratch_shapes=[
            pltpu.VMEM(state, jnp.float32),
            pltpu.VMEM((settings.layout.chunks, *state), jnp.float32),
        ],
        compiler_params=tpu_compiler_params(_SEMANTICS, settings.vmem),
        interpret=settings.interpret,
    )(x, kept, dout, dfinal)
    return Inputs(dq, dk, dv, dgate, None, dstate)

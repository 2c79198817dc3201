"""The kernels on arrays `(B, T, heads, size)`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.gla.pallas_gpu import gradient, gradient_layout, prepare, recurrent
from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, VALUE_TILE, Sizes
from structlayers.gla.pallas_gpu.support import LARGEST_GRADIENT_KEY

# Chunks that a segment should have at least.
_SEGMENT_CHUNKS = 8


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    state: jax.Array | None,
    *,
    scale: float,
    keeps: bool,
) -> list[jax.Array]:
    """Final states, outputs, and if kept the states before every chunk, which lead with B."""
    sizes, count = _sizes(q, k, v, scale, gradients=keeps)
    shape, states = (*q.shape[:-1], v.shape[-1]), (*k.shape[:1], *k.shape[2:], v.shape[-1])
    q, k, gate = (_split(x, sizes, sizes.key) for x in (q, k, gate))
    v, state = _split(v, sizes, sizes.value), _split_states(state, sizes, count)
    image = _images(q, k, gate, sizes, from_end=True)
    final, out, *kept = _recur(image, v, _starts(image, v, state, sizes, count), sizes, keeps=keeps)
    batch = sizes.batch // count
    final = final.reshape(batch, count, *final.shape[1:])[:, -1].reshape(states)
    out = _sum_parts(out, sizes).reshape(shape)
    return [final, out, *(x.reshape(batch, -1, *x.shape[1:]) for x in kept)]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    kept: jax.Array,
    dout: jax.Array,
    dfinal: jax.Array,
    *,
    scale: float,
) -> tuple[jax.Array, ...]:
    """Gradients of q, k, v, gates and the initial state, all of them for every query head.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`.
        gate: float32 `(B, T, G, K)`.
        kept: from `forward`.
        dout: `(B, T, H, V)`.
        dfinal: float32 `(B, H, K, V)`, of the final state as each query head has it.
        scale: of queries.
    """
    sizes, count = _sizes(q, k, v, scale, gradients=True)
    shape, values, states = q.shape, dout.shape, dfinal.shape
    q, k, gate = (_split(x, sizes, sizes.key) for x in (q, k, gate))
    v, dout = (_split(x, sizes, sizes.value) for x in (v, dout))
    image = _images(q, k, gate, sizes, from_end=False)
    ends = _split_states(dfinal, sizes, count)
    ends = _starts(image, dout, ends, sizes, count, transposed=True)
    dstate, dv, pulled = _recur(image, dout, ends, sizes, transposed=True, keeps=True)
    plan = gradient_layout.make_plan(sizes)
    outputs = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, jnp.float32),
    )
    dq, dk, dgate = _launch(
        gradient.program(plan),
        (q, k, gate, v, dout, kept.reshape(pulled.shape), pulled),
        outputs,
        blocks=sizes.sequences * sizes.chunks,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_gradient",
    )
    dq, dk, dgate = (x.reshape(shape) for x in (dq, dk, dgate))
    dstate = dstate.reshape(-1, count, *dstate.shape[1:])[:, 0].reshape(states)
    return dq, dk, _sum_parts(dv, sizes).reshape(values), dgate, dstate


def segments(batch: int, time: int, heads: int, value: int) -> int:
    """In how many segments sequences are cut, so that there are blocks of threads for all.

    Each is run from a state of zero first, for its final state; then with the state it starts from.
    """
    blocks = batch * heads * value // VALUE_TILE
    count, chunks = 1, time // CHUNK
    while (
        time % CHUNK == 0
        and chunks % (2 * count) == 0
        and chunks // (2 * count) >= _SEGMENT_CHUNKS
        and 2 * count * blocks <= MULTIPROCESSORS
    ):
        count *= 2
    return count


def _sizes(
    q: jax.Array, k: jax.Array, v: jax.Array, scale: float, *, gradients: bool
) -> tuple[Sizes, int]:
    """Sizes with segments in the place of sequences, and how many a sequence has.

    If gradients are wanted, sizes are those of parts of keys.
    """
    batch, time, heads, key = q.shape
    value, parts = v.shape[-1], 1
    if gradients:
        parts = -(-key // LARGEST_GRADIENT_KEY)
    heads, groups, key = heads * parts, k.shape[2] * parts, key // parts
    count = segments(batch, time, heads, value)
    return Sizes(batch * count, time // count, heads, groups, key, value, scale, parts), count


def _split(x: jax.Array, sizes: Sizes, size: int) -> jax.Array:
    """`(B, T, ...)` in segments, with the last axis in parts."""
    return x.reshape(sizes.batch, sizes.time, -1, size)


def _split_states(state: jax.Array | None, sizes: Sizes, count: int) -> jax.Array | None:
    """`(B, heads, K, V)` in parts."""
    if state is None:
        return None
    return state.reshape(sizes.batch // count, -1, sizes.key, sizes.value)


def _sum_parts(x: jax.Array, sizes: Sizes) -> jax.Array:
    """`(B, T, heads, V)` summed over the parts of each head in float32."""
    if sizes.parts == 1:
        return x
    x = x.reshape(*x.shape[:2], -1, sizes.parts, sizes.value)
    return jnp.sum(x, 3, dtype=jnp.float32).astype(x.dtype)


def _starts(
    image: jax.Array,
    v: jax.Array,
    state: jax.Array | None,
    sizes: Sizes,
    count: int,
    *,
    transposed: bool = False,
) -> jax.Array | None:
    """The state before every segment, from the last one on if transposed."""
    if count == 1:
        return state
    (added,) = _recur(image, v, None, sizes, transposed=transposed, reads=False)
    decay = lax.bitcast_convert_type(image[:, sizes.decay_at // 4 :], jnp.float32)
    decay = jnp.prod(decay.reshape(sizes.batch, sizes.heads, sizes.chunks, -1), axis=2)
    if not transposed:
        decay = decay.reshape(sizes.batch, -1, sizes.shared, sizes.parts, sizes.key)[:, :, 0]
        decay = decay.reshape(sizes.batch, sizes.groups, sizes.key)
    added, decay = (
        jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0) for x in (added, decay[..., None])
    )

    def step(state: jax.Array, segment: tuple[jax.Array, jax.Array]) -> Any:
        added, decay = segment
        return decay * state + added, state

    state = jnp.zeros_like(added[0]) if state is None else state
    _, states = lax.scan(step, state, (added, decay), reverse=transposed)
    return jnp.moveaxis(states, 0, 1).reshape(-1, *states.shape[2:])


def _images(
    q: jax.Array, k: jax.Array, gate: jax.Array, sizes: Sizes, *, from_end: bool
) -> jax.Array:
    """What `prepare` makes of all chunks."""
    count = sizes.sequences * sizes.chunks
    (image,) = _launch(
        prepare.program(sizes, from_end=from_end),
        (q, k, gate),
        (jax.ShapeDtypeStruct((count, sizes.image_bytes // 4), jnp.int32),),
        blocks=prepare.blocks(sizes),
        threads=prepare.THREADS,
        shared_bytes=prepare.shared_bytes(sizes),
        name="gated_linear_attention_prepare",
    )
    return image


def _recur(
    image: jax.Array,
    v: jax.Array,
    state: jax.Array | None,
    sizes: Sizes,
    *,
    transposed: bool = False,
    keeps: bool = False,
    reads: bool = True,
) -> list[jax.Array]:
    """Final states, outputs if read, and states before every chunk if kept."""
    plan = recurrent.make_plan(sizes, transposed=transposed, keeps=keeps, reads=reads)
    heads = sizes.heads if transposed else sizes.groups
    outputs = [jax.ShapeDtypeStruct((sizes.batch, heads, sizes.key, sizes.value), jnp.float32)]
    if reads:
        shape = (sizes.batch, sizes.time, sizes.heads, sizes.value)
        outputs.append(jax.ShapeDtypeStruct(shape, v.dtype))
    if keeps:
        shape = (sizes.batch, sizes.heads, sizes.chunks, plan.tiles, plan.state_bytes // 2)
        outputs.append(jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    return _launch(
        recurrent.program(plan),
        (image, v) if state is None else (image, v, state),
        outputs,
        blocks=plan.blocks,
        threads=recurrent.THREADS,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_recurrent",
    )


def _launch(
    program: Any,
    inputs: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    blocks: int,
    threads: int,
    shared_bytes: int,
    name: str,
) -> list[jax.Array]:
    from structlayers._core.simt.mosaic import launch

    return launch(
        program,
        inputs,
        outputs,
        clusters=blocks,
        cluster_size=1,
        threads=threads,
        shared_bytes=shared_bytes,
        name=name,
    )

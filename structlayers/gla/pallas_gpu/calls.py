"""The kernels on arrays `(B, T, heads, size)`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from structlayers.gla.pallas_gpu import gradient, gradient_layout, halves, prepare, recurrent
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
    if keeps and q.shape[-1] > LARGEST_GRADIENT_KEY:
        q, k, gate = map(halves.split_keys, (q, k, gate))
        start = None if state is None else halves.split_states(state)
        final, out, kept = forward(q, k, halves.for_both(v), gate, start, scale=scale, keeps=True)
        return [halves.join_states(final), halves.sum_both(out), kept]
    sizes, count = _sizes(q, k, v, scale)
    q, k, v, gate = (_split(x, count) for x in (q, k, v, gate))
    image = _images(q, k, gate, sizes, from_end=True)
    final, out, *kept = _recur(image, v, _starts(image, v, state, sizes, count), sizes, keeps=keeps)
    batch = sizes.batch // count
    final = final.reshape(batch, count, *final.shape[1:])[:, -1]
    out = out.reshape(batch, -1, *out.shape[2:])
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
    if q.shape[-1] > LARGEST_GRADIENT_KEY:
        q, k, gate = map(halves.split_keys, (q, k, gate))
        v, dout = map(halves.for_both, (v, dout))
        dfinal = halves.split_states(dfinal)
        dq, dk, dv, dgate, dstate = backward(q, k, v, gate, kept, dout, dfinal, scale=scale)
        dq, dk, dgate = map(halves.join_keys, (dq, dk, dgate))
        return dq, dk, halves.sum_both(dv), dgate, halves.join_states(dstate)
    sizes, count = _sizes(q, k, v, scale)
    q, k, v, gate, dout = (_split(x, count) for x in (q, k, v, gate, dout))
    image = _images(q, k, gate, sizes, from_end=False)
    ends = _starts(image, dout, dfinal, sizes, count, transposed=True)
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
    batch = sizes.batch // count
    dq, dk, dv, dgate = (x.reshape(batch, -1, *x.shape[2:]) for x in (dq, dk, dv, dgate))
    return dq, dk, dv, dgate, dstate.reshape(batch, count, *dstate.shape[1:])[:, 0]


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


def _sizes(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> tuple[Sizes, int]:
    """Sizes with segments in the place of sequences, and how many a sequence has."""
    batch, time, heads, key = q.shape
    value = v.shape[-1]
    count = segments(batch, time, heads, value)
    return Sizes(batch * count, time // count, heads, k.shape[2], key, value, scale), count


def _split(x: jax.Array, count: int) -> jax.Array:
    """`(B, T, ...)` in segments."""
    return x.reshape(x.shape[0] * count, x.shape[1] // count, *x.shape[2:])


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
        decay = decay[:, :: sizes.shared]
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

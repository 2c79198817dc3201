"""The kernels on arrays `(B, T, heads, size)`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from structlayers.gla.pallas_gpu import gradient, gradient_layout, prepare, recurrent
from structlayers.gla.pallas_gpu.layout import Sizes
from structlayers.gla.pallas_gpu.segments import Segments, decays_of, segment_count
from structlayers.gla.pallas_gpu.support import LARGEST_GRADIENT_KEY


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    state: jax.Array | None,
    known: Segments | None,
    *,
    scale: float,
    keeps: bool,
) -> list[jax.Array]:
    """Final states, outputs, and if kept the states before every chunk, which lead with B.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`.
        gate: float32 `(B, T, G, K)`.
        state: float32 `(B, G, K, V)`, or None for zeros.
        known: from `summarize` of the same, or None.
        scale: of queries.
        keeps: whether states are kept.
    """
    sizes, count = _sizes(q, k, v, scale, gradients=keeps)
    shape, states = (*q.shape[:-1], v.shape[-1]), (*k.shape[:1], *k.shape[2:], v.shape[-1])
    if known is None and count > 1:
        known = summarize(q, k, v, gate, scale=scale, gradients=keeps)
    q, k, gate = (_split(x, sizes, sizes.key) for x in (q, k, gate))
    if known is None:
        image = _images(q, k, gate, sizes, from_end=True)
    else:
        image, (_, state) = _flat(known.images), known.run(state)
    v = _split(v, sizes, sizes.value)
    state = None if state is None else _split_states(state, sizes)
    final, out, *kept = _recur(image, v, state, sizes, keeps=keeps)
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
    known: Segments | None,
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
        known: from `summarize` of q, k, dout and gates, transposed, or None.
        scale: of queries.
    """
    sizes, count = _sizes(q, k, v, scale, gradients=True)
    shape, values, states = q.shape, dout.shape, dfinal.shape
    if known is None and count > 1:
        known = summarize(q, k, dout, gate, scale=scale, gradients=True, transposed=True)
    q, k, gate = (_split(x, sizes, sizes.key) for x in (q, k, gate))
    v, dout = (_split(x, sizes, sizes.value) for x in (v, dout))
    if known is None:
        image, ends = _images(q, k, gate, sizes, from_end=False), dfinal
    else:
        image, ends = _flat(known.images), known.run(dfinal, reverse=True)[1]
    ends = _split_states(ends, sizes)
    dstate, dv, pulled = _recur(image, dout, ends, sizes, transposed=True, keeps=True)
    plan = gradient_layout.Plan(sizes)
    outputs = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, jnp.float32),
    )
    dq, dk, dgate = _launch(
        gradient.program(plan),
        (q, k, gate, v, dout, kept.reshape(pulled.shape), pulled),
        outputs,
        blocks=plan.blocks,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_gradient",
    )
    dq, dk, dgate = (x.reshape(shape) for x in (dq, dk, dgate))
    dstate = dstate.reshape(-1, count, *dstate.shape[1:])[:, 0].reshape(states)
    return dq, dk, _sum_parts(dv, sizes).reshape(values), dgate, dstate


def summarize(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    *,
    scale: float,
    gradients: bool,
    transposed: bool = False,
) -> Segments:
    """What `forward` or `backward` wants to know of segments, be it one.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`, or if transposed the cotangents of outputs `(B, T, H, V)`.
        gate: float32 `(B, T, G, K)`.
        scale: of queries.
        gradients: whether it is for a call that keeps states, or for `backward`.
        transposed: whether it is for `backward`.
    """
    sizes, count = _sizes(q, k, v, scale, gradients=gradients)
    q, k, gate = (_split(x, sizes, sizes.key) for x in (q, k, gate))
    image = _images(q, k, gate, sizes, from_end=not transposed)
    v = _split(v, sizes, sizes.value)
    (added,) = _recur(image, v, None, sizes, transposed=transposed, reads=False)
    decays = decays_of(image, sizes, transposed=transposed)[..., None]
    batch = sizes.batch // count
    added, decays = (x.reshape(batch, count, *x.shape[1:]) for x in (added, decays))
    return Segments(image.reshape(batch, -1, image.shape[-1]), added, decays)


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
    count = segment_count(batch, time, heads, value)
    return Sizes(batch * count, time // count, heads, groups, key, value, scale, parts), count


def _split(x: jax.Array, sizes: Sizes, size: int) -> jax.Array:
    """`(B, T, ...)` in segments, with the last axis in parts."""
    return x.reshape(sizes.batch, sizes.time, -1, size)


def _split_states(state: jax.Array, sizes: Sizes) -> jax.Array:
    """States of segments, `(segments of B, heads, K, V)`, in parts."""
    return state.reshape(sizes.batch, -1, sizes.key, sizes.value)


def _flat(x: jax.Array) -> jax.Array:
    """`(B, N, ...)` as `(B N, ...)`."""
    return x.reshape(-1, *x.shape[2:])


def _sum_parts(x: jax.Array, sizes: Sizes) -> jax.Array:
    """`(B, T, heads, V)` summed over the parts of each head in float32."""
    if sizes.parts == 1:
        return x
    x = x.reshape(*x.shape[:2], -1, sizes.parts, sizes.value)
    return jnp.sum(x, 3, dtype=jnp.float32).astype(x.dtype)


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

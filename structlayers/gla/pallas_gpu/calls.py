"""The kernels on arrays `(B, T, heads, size)`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from structlayers.gla.pallas_gpu import gradient, prepare, recurrent
from structlayers.gla.pallas_gpu.layout import Sizes


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
    """Outputs, final states, and if kept the states before every chunk, `(B, H, chunks, ...)`."""
    sizes = _sizes(q, k, v, scale)
    return _recur(images(q, k, gate, sizes), v, state, sizes, keeps=keeps)


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
    sizes = _sizes(q, k, v, scale)
    image = images(q, k, gate, sizes)
    dv, dstate, pulled = _recur(image, dout, dfinal, sizes, transposed=True, keeps=True)
    plan = gradient.make_plan(sizes)
    outputs = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct(q.shape, jnp.float32),
    )
    dq, dk, dgate = _launch(
        gradient.program(plan),
        (q, k, gate, v, dout, kept, pulled),
        outputs,
        blocks=sizes.sequences * sizes.chunks,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_gradient",
    )
    return dq, dk, dv, dgate, dstate


def _sizes(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> Sizes:
    batch, time, heads, key = q.shape
    return Sizes(batch, time, heads, k.shape[2], key, v.shape[-1], scale)


def images(q: jax.Array, k: jax.Array, gate: jax.Array, sizes: Sizes) -> jax.Array:
    """What `prepare` makes of all chunks."""
    count = sizes.sequences * sizes.chunks
    (image,) = _launch(
        prepare.program(sizes),
        (q, k, gate),
        (jax.ShapeDtypeStruct((count, sizes.image_bytes // 4), jnp.int32),),
        blocks=count,
        threads=prepare.threads(sizes),
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
) -> list[jax.Array]:
    plan = recurrent.make_plan(sizes, transposed=transposed, keeps=keeps)
    heads = sizes.heads if transposed else sizes.groups
    outputs = [
        jax.ShapeDtypeStruct((sizes.batch, sizes.time, sizes.heads, sizes.value), v.dtype),
        jax.ShapeDtypeStruct((sizes.batch, heads, sizes.key, sizes.value), jnp.float32),
    ]
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

"""The kernels on arrays `(B, T, heads, size)`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structlayers.gla.pallas_gpu import (
    gradient,
    gradient_layout,
    prepare,
    recurrent,
    recurrent_plan,
)
from structlayers.gla.pallas_gpu.layout import VALUE_TILE, Sizes
from structlayers.gla.pallas_gpu.ranges import ranges_of
from structlayers.gla.pallas_gpu.segments import Segments, decays_of, segment_count


class Kept(NamedTuple):
    """What `forward` keeps for `backward`; both lead with B.

    Attributes:
        states: bfloat16, the states before every chunk, or every second one (`Sizes.paired`).
        images: int32 `(B, N, words)`, what `prepare` makes of chunks.
    """

    states: jax.Array
    images: jax.Array


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
    segments: int | None = None,
) -> tuple[jax.Array, jax.Array, Kept | None]:
    """Final states, outputs, and if kept what `backward` wants.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`.
        gate: float32 `(B, T, G, K)`.
        state: float32 `(B, G, K, V)`, or None for zeros.
        known: from `summarize` of the same, or None.
        scale: of queries.
        keeps: whether gradients follow.
        segments: how many a sequence has; None for as many as `known` or as there are blocks of
            threads for.
    """
    count = segments or (_segment_count(q, v) if known is None else known.added.shape[1])
    sizes = _sizes(q, k, v, scale, count)
    batch, shape = q.shape[0], (*q.shape[:-1], v.shape[-1])
    if known is None and count > 1:
        known = summarize(q, k, v, gate, scale=scale, segments=count)
    q, k, v, gate = (_split(x, sizes) for x in (q, k, v, gate))
    if known is None:
        image = _images(q, k, gate, sizes)
    else:
        image, state = _flat(known.images), _flat(known.run(state)[1])
    final, out, *states = _recur(image, v, state, sizes, keeps=keeps)
    final = final.reshape(batch, count, *final.shape[1:])[:, -1]
    kept = Kept(*(x.reshape(batch, -1, *x.shape[1:]) for x in (*states, image))) if keeps else None
    return final, out.reshape(shape), kept


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    kept: Kept,
    dout: jax.Array,
    dfinal: jax.Array | None,
    known: Segments | None,
    *,
    scale: float,
    saves: bool = False,
) -> tuple[jax.Array, ...]:
    """Gradients of q, k, v, gates and the initial state, all of them for every query head.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`.
        gate: float32 `(B, T, G, K)`.
        kept: from `forward`.
        dout: `(B, T, H, V)`.
        dfinal: float32 `(B, H, K, V)`, of the final state as each query head has it; None is zero.
        known: from `summarize` of q, k, dout, gates and these images, or None.
        scale: of queries.
        saves: whether to take little memory, see `ranges`.
    """
    count = kept.states.shape[1]
    sizes = _sizes(q, k, v, scale, count)
    shape, values, ends = q.shape, dout.shape, dfinal
    if known is None and count > 1:
        known = summarize(q, k, dout, gate, kept.images, scale=scale, segments=count)
    if known is not None:
        ends = _flat(known.run(dfinal, reverse=True)[1])
    q, k, v, gate, dout = (_split(x, sizes) for x in (q, k, v, gate, dout))
    image = _flat(kept.images)
    arrays = (q, k, gate, v, dout, kept.states.reshape(-1, *kept.states.shape[2:]), image)
    ranges = ranges_of(sizes, wanted=saves)
    if len(ranges) == 1:
        dstate, dv, pulled = _recur(image, dout, ends, sizes, transposed=True, keeps=True)
        dq, dk, dgate = _gradients(arrays, pulled, sizes)
    else:
        (dstate, dv), (dq, dk, dgate) = _in_ranges(arrays, ends, sizes, ranges)
    dq, dk, dgate = (x.reshape(shape) for x in (dq, dk, dgate))
    dstate = dstate.reshape(-1, count, *dstate.shape[1:])[:, 0]
    return dq, dk, dv.reshape(values), dgate, dstate


def _in_ranges(
    arrays: tuple[jax.Array, ...], ends: jax.Array | None, sizes: Sizes, ranges: Sequence[range]
) -> tuple[Sequence[jax.Array], Sequence[jax.Array]]:
    """Results of the recurrence from the end, but for what it keeps, and of `_gradients`.

    Each launch takes in what it writes to, and so runs after those that read or wrote it: there is
    one array of all results, and of gradients of states one with room for a range.
    """
    *_, dout, _, image = arrays
    kept = sizes.kept_of(len(ranges[0]))
    results: list[jax.Array] = []
    gradients: list[jax.Array] = []
    for chunks in reversed(ranges):
        results = _recur(
            image,
            dout,
            None if results else ends,
            sizes,
            transposed=True,
            keeps=True,
            chunks=chunks,
            kept=kept,
            written=results,
        )
        *gradients, results[-1] = _gradients(
            arrays, results[-1], sizes, chunks=chunks, written=gradients
        )
    return results[:-1], gradients


def _gradients(
    arrays: tuple[jax.Array, ...],
    pulled: jax.Array,
    sizes: Sizes,
    *,
    chunks: range | None = None,
    written: Sequence[jax.Array] = (),
) -> list[jax.Array]:
    """Gradients of queries, keys and gates, of all chunks.

    Args:
        arrays: queries, keys, gates, values, cotangents, states and images.
        pulled: gradients of states.
        sizes: of the call.
        chunks: the only ones; then `pulled` is the last result, as it was.
        written: gradients of others, to which those of these chunks are written.
    """
    q, *_, image = arrays
    inputs = arrays[:-1] if chunks else (*arrays[:-1], pulled)
    plan = gradient_layout.make_plan(sizes.in_parts(), chunks, pulled.shape[2])
    outputs = [jax.ShapeDtypeStruct(q.shape, x) for x in (q.dtype, q.dtype, jnp.float32)]
    return _launch(
        gradient.program(plan),
        (*inputs, image) if sizes.paired else inputs,
        [] if written else outputs,
        (*written, pulled) if chunks else (),
        blocks=plan.blocks,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_gradient",
    )


def summarize(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gate: jax.Array,
    images: jax.Array | None = None,
    *,
    scale: float,
    segments: int | None = None,
) -> Segments:
    """What `forward` or `backward` wants to know of segments, be it one.

    Args:
        q: `(B, T, H, K)`.
        k: `(B, T, G, K)`.
        v: `(B, T, G, V)`, or for `backward` the cotangents of outputs `(B, T, H, V)`.
        gate: float32 `(B, T, G, K)`.
        images: for `backward` those that `forward` kept, of as many segments; else None.
        scale: of queries.
        segments: how many a sequence has; None for as many as there are blocks of threads for.
    """
    count = segments or _segment_count(q, v, twice=True)
    sizes = _sizes(q, k, v, scale, count)
    q, k, v, gate = (_split(x, sizes) for x in (q, k, v, gate))
    transposed = images is not None
    image = _images(q, k, gate, sizes) if images is None else _flat(images)
    (added,) = _recur(image, v, None, sizes, transposed=transposed, reads=False)
    decays = decays_of(image, sizes, transposed=transposed)[..., None]
    batch = sizes.batch // count
    added, decays = (x.reshape(batch, count, *x.shape[1:]) for x in (added, decays))
    return Segments(image.reshape(batch, -1, image.shape[-1]), added, decays)


def _segment_count(q: jax.Array, v: jax.Array, *, twice: bool = False) -> int:
    batch, time, heads, _ = q.shape
    return segment_count(batch, time, heads, v.shape[-1], twice=twice)


def _sizes(q: jax.Array, k: jax.Array, v: jax.Array, scale: float, count: int) -> Sizes:
    """Sizes with so many segments in the place of each sequence."""
    batch, time, heads, key = q.shape
    return Sizes(batch * count, time // count, heads, k.shape[2], key, v.shape[-1], scale)


def _split(x: jax.Array, sizes: Sizes) -> jax.Array:
    """`(B, T, ...)` in segments."""
    return x.reshape(sizes.batch, sizes.time, *x.shape[2:])


def _flat(x: jax.Array) -> jax.Array:
    """`(B, N, ...)` as `(B N, ...)`."""
    return x.reshape(-1, *x.shape[2:])


def _images(q: jax.Array, k: jax.Array, gate: jax.Array, sizes: Sizes) -> jax.Array:
    """What `prepare` makes of all chunks."""
    count = sizes.sequences * sizes.chunks
    (image,) = _launch(
        prepare.program(sizes),
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
    chunks: range | None = None,
    kept: int | None = None,
    written: Sequence[jax.Array] = (),
) -> list[jax.Array]:
    """Final states, outputs if read, and states before chunks if kept.

    Args:
        image: of all chunks.
        v: values, or cotangents of outputs.
        state: before the first chunk, or None for zeros.
        sizes: of the call.
        transposed: whether it runs from the end.
        keeps: whether states are kept.
        reads: whether there are outputs.
        chunks: those it goes through; None for all.
        kept: places for states of a sequence; None for as many as all chunks need.
        written: results of the launch that it goes on from, to which it writes.
    """
    plan = recurrent_plan.make_plan(
        sizes,
        chunks,
        kept,
        transposed=transposed,
        keeps=keeps,
        reads=reads,
        goes_on=bool(written),
    )
    heads = sizes.heads if transposed else sizes.groups
    outputs = [jax.ShapeDtypeStruct((sizes.batch, heads, sizes.key, sizes.value), jnp.float32)]
    if reads:
        shape = (sizes.batch, sizes.time, sizes.heads, sizes.value)
        outputs.append(jax.ShapeDtypeStruct(shape, v.dtype))
    if keeps:
        parts = sizes.in_parts()
        words = VALUE_TILE * parts.key
        shape = (sizes.batch, parts.heads, plan.kept, plan.tiles, words)
        outputs.append(jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    return _launch(
        recurrent.program(plan),
        (image, v) if state is None else (image, v, state),
        [] if written else outputs,
        written,
        blocks=plan.blocks,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
        name="gated_linear_attention_recurrent",
    )


def _launch(
    program: Any,
    inputs: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    written: Sequence[jax.Array] = (),
    *,
    blocks: int,
    threads: int,
    shared_bytes: int,
    name: str,
) -> list[jax.Array]:
    """Results of a program: of these shapes, then arrays that it writes to where they are."""
    from structlayers._core.simt.mosaic import launch

    count, in_place = len(inputs), [jax.new_ref(x) for x in written]

    def run(machine: Any, arrays: Sequence[Any], results: Sequence[Any]) -> None:
        program(machine, arrays[:count], [*results, *arrays[count:]])

    found = launch(
        run,
        [*inputs, *in_place],
        outputs,
        clusters=blocks,
        cluster_size=1,
        threads=threads,
        shared_bytes=shared_bytes,
        name=name,
    )
    return [*found, *map(jax.freeze, in_place)]

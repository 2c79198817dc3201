"""sequence_parallel_gated_linear_attention on virtual devices against one device."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from structlayers._core.pallas import interpret_tpu_kernels
from structlayers.gla import gated_linear_attention, sequence_parallel_gated_linear_attention
from structlayers.testing import assert_close
from tests.gla.cases import inputs, log_gates, recurrence, state

TIME = P(None, "time")


def mesh_of(ranks: int) -> Mesh:
    devices = jax.devices()[:ranks]
    return jax.make_mesh((ranks,), ("time",), axis_types=(AxisType.Auto,), devices=devices)


def parallel(ranks: int, *, check_vma: bool = True, **options: Any) -> Callable[..., Any]:
    """Outputs and final state from whole arrays, whose axis of time is sharded over ranks."""

    def run(q, k, v, gate, value_gate, start, ids):
        def local(q, k, v, gate, value_gate, start, ids):
            return sequence_parallel_gated_linear_attention(
                q,
                k,
                v,
                gate,
                axis_name="time",
                log_value_gate=value_gate,
                initial_state=start,
                segment_ids=ids,
                output_final_state=True,
                **options,
            )

        return jax.shard_map(
            local,
            mesh=mesh_of(ranks),
            in_specs=(TIME, TIME, TIME, TIME, TIME, P(), TIME),
            out_specs=(TIME, P()),
            check_vma=check_vma,
        )(q, k, v, gate, value_gate, start, ids)

    return run


def single(**options: Any) -> Callable[..., Any]:
    def run(q, k, v, gate, value_gate, start, ids):
        return gated_linear_attention(
            q,
            k,
            v,
            gate,
            log_value_gate=value_gate,
            initial_state=start,
            segment_ids=ids,
            output_final_state=True,
            **options,
        )

    return run


def values_and_gradients(fn: Callable[..., Any], arrays: tuple, ids: Any, weights: Any) -> Any:
    """Results, and the gradients of all arrays that are there along random cotangents."""

    @jax.jit
    def run(*arrays):
        results, pull = jax.vjp(lambda *arrays: fn(*arrays, ids), *arrays)
        return results, pull(weights)

    return run(*arrays)


def draw(rng, time, kind="spiky", dtype="float32", value_gate=False, start=True):
    q, k, v, gate = inputs(rng, (2,), time, 4, 2, 6, 10, kind, dtype)
    value_gate = log_gates(rng, v.shape, kind) if value_gate else None
    return q, k, v, gate, value_gate, state(rng, 2, 2, 6, 10) if start else None


def cotangents(rng, arrays):
    q, _, v, *_ = arrays
    out = rng.standard_normal((*q.shape[:-1], v.shape[-1]))
    return jnp.asarray(out, q.dtype), state(rng, 2, 2, 6, 10)


# Tokens on every rank: more than a chunk, which does not divide them.
TOKENS, CHUNK = 5, 4

CASES = {
    "two ranks": (2, {}, {}),
    "three ranks": (3, {}, {"reverse": True}),
    "four ranks": (4, {"kind": "mixed"}, {}),
    "eight ranks": (8, {}, {"check_vma": False}),
    "value gates": (4, {"value_gate": True, "kind": "start"}, {}),
    "no initial state": (4, {"start": False}, {"check_vma": False}),
    "gates of -200": (3, {"kind": "-200"}, {}),
    "gates of 0": (4, {"kind": "0"}, {"scale": 0.3}),
    "two passes": (4, {"value_gate": True}, {"implementation": "reference"}),
    "two passes, reverse": (3, {}, {"implementation": "reference", "reverse": True}),
}


@pytest.mark.parametrize(("ranks", "drawn", "options"), CASES.values(), ids=list(CASES))
def test_equals_one_device(ranks, drawn, options, rng):
    arrays = draw(rng, TOKENS * ranks, **drawn)
    weights = cotangents(rng, arrays)
    options: dict[str, Any] = {"chunk_size": CHUNK, **options}
    got = values_and_gradients(parallel(ranks, **options), arrays, None, weights)
    options.pop("check_vma", None)
    want = values_and_gradients(single(**options), arrays, None, weights)
    assert_close("outputs, gradients", got, want, 1e-6)


IDS = {
    "across ranks": np.repeat([0, 3, 4], [7, 11, 2]),
    "at ranks": np.repeat([7, 8, 9, 12], TOKENS),
    "one": np.full(4 * TOKENS, 5),
    "short": np.arange(4 * TOKENS) // 3,
}


@pytest.mark.parametrize(
    ("ids", "reverse", "implementation"),
    [
        *((ids, reverse, "xla") for ids in IDS for reverse in (False, True)),
        ("across ranks", True, "reference"),
        ("short", False, "reference"),
    ],
)
def test_segments_across_ranks(ids, reverse, implementation, rng):
    """Different ones in both rows; one that begins on a rank forgets what comes from others."""
    arrays = draw(rng, 4 * TOKENS, value_gate=True)
    weights = cotangents(rng, arrays)
    ids = np.stack([IDS[ids], np.sort(rng.integers(0, 6, 4 * TOKENS))])
    options = {"chunk_size": CHUNK, "reverse": reverse, "implementation": implementation}
    got = values_and_gradients(parallel(4, **options), arrays, ids, weights)
    want = values_and_gradients(single(**options), arrays, ids, weights)
    assert_close("outputs, gradients", got, want, 1e-6)


def test_equals_the_recurrence_in_float64(rng):
    arrays = draw(rng, 8 * 9, "strong")
    q, k, v, gate, _, start = arrays
    assert start is not None
    out, final = jax.jit(parallel(8, chunk_size=4))(*arrays, None)
    for b in range(2):
        wanted, last = recurrence(q[b], k[b], v[b], gate[b], np.zeros(1), start[b], 6**-0.5)
        assert_close("outputs", out[b], wanted, 1e-6)
        assert_close("state", final[b], last, 1e-6)


@pytest.mark.parametrize("gates", ["none", "constants", "scalars"])
def test_gates_of_fewer_channels(gates, rng):
    q, k, v, gate, _, start = draw(rng, 4 * TOKENS)
    shapes = {"constants": gate[:1, :1, :, :1], "scalars": gate[..., :1], "none": None}
    arrays = (q, k, v, shapes[gates], None, start)
    options = {"chunk_size": CHUNK}

    def run(q, k, v, gate, value_gate, start, ids):
        def local(q, k, v, start):
            own = gate
            if gates == "scalars":
                rank = jax.lax.axis_index("time")
                own = jax.lax.dynamic_slice_in_dim(gate, TOKENS * rank, TOKENS, 1)
            return sequence_parallel_gated_linear_attention(
                q, k, v, own, axis_name="time", initial_state=start, output_final_state=True
            )

        return jax.shard_map(
            local, mesh=mesh_of(4), in_specs=(TIME, TIME, TIME, P()), out_specs=(TIME, P())
        )(q, k, v, start)

    weights = cotangents(rng, arrays)
    got = values_and_gradients(run, arrays, None, weights)
    want = values_and_gradients(single(**options), arrays, None, weights)
    assert_close("outputs, gradients", got, want, 1e-6)


def test_bfloat16(rng):
    """Data in bfloat16, states in float32: as far from one device as that is from float32."""
    arrays = draw(rng, 4 * TOKENS, "start", "bfloat16")
    weights = cotangents(rng, arrays)
    got = values_and_gradients(parallel(4, chunk_size=CHUNK), arrays, None, weights)
    assert got[0][1].dtype == jnp.float32
    wide = [np.asarray(x, np.float32) for x in arrays if x is not None]
    exact = values_and_gradients(
        single(chunk_size=CHUNK),
        (*wide[:4], None, wide[4]),
        None,
        (weights[0].astype("float32"), weights[1]),
    )
    for name, one, two in zip(("values", "gradients"), got, exact, strict=True):
        assert_close(name, one, two, 5e-3)


@pytest.mark.parametrize("time", [0, 1])
def test_one_token_and_none_on_every_rank(time, rng):
    arrays = draw(rng, 4 * time)
    got = parallel(4)(*arrays, None)
    assert_close("outputs", got, single()(*arrays, None), 1e-6)


def test_gradients_of_gradients_in_float64(rng):
    def size(fn, arrays, weights):
        def of(*arrays):
            _, gradients = values_and_gradients(fn, arrays, None, weights)
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(gradients))

        return jax.jit(jax.grad(of, argnums=(0, 1, 2, 3, 5)))(*arrays)

    arrays = draw(rng, 4 * 3, "start")
    weights = cotangents(rng, arrays)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arrays, weights))
        got, want = (size(fn(), *wide) for fn in (functools.partial(parallel, 4), single))
        assert_close("gradients", got, want, 1e-13)


def test_beside_an_axis_of_the_batch_and_under_vmap(rng):
    arrays = draw(rng, 4 * TOKENS)[:4]
    mesh = jax.make_mesh((2, 4), ("batch", "time"), axis_types=(AxisType.Auto,) * 2)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=P("batch", "time"), out_specs=P("batch", "time"))
    def run(*arrays):
        attend = functools.partial(sequence_parallel_gated_linear_attention, axis_name="time")
        return jax.vmap(attend)(*arrays)

    assert_close("outputs", run(*arrays), gated_linear_attention(*arrays), 1e-6)


def test_kernels_for_tpu_take_the_state_from_the_ranks_before(rng):
    arrays = draw(rng, 2 * TOKENS)
    weights = cotangents(rng, arrays)
    options = {"chunk_size": CHUNK, "check_vma": False}
    with interpret_tpu_kernels(plain=True):
        fn = parallel(2, implementation="pallas_tpu", **options)
        got = values_and_gradients(fn, arrays, None, weights)
    want = values_and_gradients(single(chunk_size=CHUNK), arrays, None, weights)
    assert_close("outputs, gradients", got, want, 1e-6)


COLLECTIVE = re.compile(
    r"= (\w+)\[([\d,]*)\]\S* "
    r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def collectives(fn: Callable[..., Any], *arrays: Any) -> list[tuple[str, int]]:
    """Collectives of a compiled program, with the bytes of their results."""
    text = jax.jit(fn).lower(*arrays).compile().as_text() or ""
    sizes = {"f32": 4, "s32": 4, "bf16": 2}
    return [
        (kind, sizes[dtype] * int(np.prod([int(n) for n in shape.split(",") if n])))
        for dtype, shape, kind in COLLECTIVE.findall(text)
    ]


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_ranks_exchange_one_state_forward_and_one_backward(implementation, rng):
    """`4 P B G (K V + K)` bytes, whatever T is; received once, and kept for the way back."""
    ranks, sequences, groups, key, value = 4, 2, 2, 6, 10
    for time in (TOKENS, 2 * TOKENS):
        arrays = draw(rng, ranks * time, start=False)[:4]

        def run(*arrays):
            out, _ = parallel(ranks, implementation=implementation)(*arrays, None, None, None)
            return out

        def gradients(*arrays):
            return jax.grad(lambda *arrays: jnp.sum(jnp.sin(run(*arrays))), (0, 1, 2, 3))(*arrays)

        there = 4 * ranks * sequences * groups * (key * value + key)
        back = 4 * ranks * sequences * groups * key * value
        assert collectives(run, *arrays) == [("all-gather", there)]
        assert collectives(gradients, *arrays) == [("all-gather", there), ("all-gather", back)]


def test_ids_and_final_state_take_one_message_each(rng):
    arrays = draw(rng, 4 * TOKENS)
    found = collectives(parallel(4), *arrays, np.zeros((2, 4 * TOKENS), np.int32))
    sizes = [("all-gather", 4 * 4 * 2 * 2 * 66), ("all-reduce", 4 * 2 * 2 * 60)]
    assert sorted(found) == [*sizes, ("collective-permute", 4 * 2)]


def test_bad_input_is_refused(rng):
    arrays = draw(rng, 4 * TOKENS)
    attend = sequence_parallel_gated_linear_attention
    with pytest.raises(ValueError, match="axis_name must be an axis of an enclosing"):
        attend(*arrays[:4], axis_name="time")

    def sharded(**options):
        fn = functools.partial(attend, **{"axis_name": "time", **options})
        return jax.shard_map(fn, mesh=mesh_of(4), in_specs=TIME, out_specs=TIME)

    with pytest.raises(ValueError, match="axis_name must be one of 'time', got 'heads'"):
        sharded(axis_name="heads")(*arrays[:4])
    with pytest.raises(ValueError, match=r"evenly divisible"):
        sharded()(*(x[:, :18] for x in arrays[:4]))
    with pytest.raises(ValueError, match=r"initial_state must have shape \(\*B, G, K, V\)"):
        sharded(initial_state=jnp.zeros((2, 2, 6, 9)))(*arrays[:4])
    with pytest.raises(ValueError, match=r"segment_ids must have shape \(\*B, T\) = \(2, 5\)"):
        sharded(segment_ids=np.zeros((2, 20), int))(*arrays[:4])
    with pytest.raises(ValueError, match="unknown implementation 'fast'"):
        sharded(implementation="fast")(*arrays[:4])

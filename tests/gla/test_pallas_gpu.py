"""Kernels for Hopper GPUs: simulated on NumPy, lowered for CUDA, and run where there is a GPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from structlayers._core import pallas
from structlayers._core.dispatch import assume_platform
from structlayers.gla import gated_linear_attention, sequence_parallel_gated_linear_attention
from structlayers.gla.ops.attention import dispatcher
from structlayers.gla.pallas_gpu import (
    apply,
    gradient_layout,
    prepare,
    recurrent_plan,
    segments,
)
from structlayers.gla.pallas_gpu.layout import SHARED_LIMIT, Sizes
from structlayers.testing import assert_close, assert_gradients_match, error_ratio
from tests.gla.cases import attention, inputs, state

VALUES, GRADIENTS = 4e-3, 5e-3

kernel = functools.partial(attention, "pallas_gpu")
reference = functools.partial(attention, "reference")


def arguments(rng, batch, time, heads, groups, key, value, kind="start"):
    arrays = inputs(rng, (batch,), time, heads, groups, key, value, kind, "bfloat16")
    return *arrays, state(rng, batch, groups, key, value)


IDS = np.repeat([[0, 1, 2]], [17, 1, 82], axis=1)

# batch, time, H, G, K, V, options
CASES = {
    "one token": (1, 1, 1, 1, 64, 64, {}),
    "a whole chunk": (1, 64, 1, 1, 64, 64, {}),
    "a part of a chunk, shared keys": (1, 63, 2, 1, 64, 64, {}),
    "several tiles of values": (2, 65, 1, 1, 64, 128, {"scale": 0.3}),
    "segments": (1, 100, 1, 1, 64, 64, {"segment_ids": IDS}),
    "reverse": (1, 70, 1, 1, 64, 64, {"reverse": True}),
    "two slabs of keys": (1, 130, 1, 1, 128, 64, {}),
    "more tiles of values than stages": (1, 65, 1, 1, 128, 320, {}),
    "sizes that are padded": (1, 70, 2, 1, 40, 72, {}),
    "all keys of a state in a block, gradients of halves": (1, 66, 2, 1, 256, 128, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("simulated")
def test_values_and_gradients(case, rng):
    batch, time, heads, groups, key, value, options = CASES[case]
    arrays = arguments(rng, batch, time, heads, groups, key, value, "spiky")
    assert_gradients_match(
        kernel(**options), reference(**options), arrays, GRADIENTS, value_bound=VALUES
    )


@pytest.mark.parametrize(("time", "ends"), [(100, [0, 17, 17, 18, 90]), (256, [0, 64, 130, 256])])
@pytest.mark.usefixtures("simulated")
def test_packed_sequences_without_states(time, ends, rng, monkeypatch):
    """In 1 part, and cut in 4 at ends and between them."""
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 8)
    assert segments.segment_count(1, time, 2, 64) == (4 if time == 256 else 1)
    *arrays, _ = arguments(rng, 1, time, 2, 1, 64, 64, "spiky")

    def run(implementation):
        def call(*arrays):
            options = {"cu_seqlens": jnp.array(ends), "implementation": implementation}
            return gated_linear_attention(*arrays, **options)

        return jax.jit(call)

    ours = run("pallas_gpu")
    assert_gradients_match(ours, run("reference"), arrays, GRADIENTS, value_bound=VALUES)
    assert not np.any(ours(*arrays)[0, ends[-1] :])
    with pytest.raises(NotImplementedError, match="no states of packed sequences"):
        kernel(cu_seqlens=np.array(ends))(*arrays)


@pytest.mark.parametrize(
    ("time", "heads", "key", "value"),
    [
        (256, 1, 128, 128),
        (320, 1, 128, 64),  # a last chunk without a neighbour
        (130, 2, 128, 320),  # and a part of one
        (100, 2, 256, 192),
        (192, 1, 256, 64),
    ],
)
@pytest.mark.usefixtures("simulated")
def test_states_are_made_again_for_every_second_chunk(time, heads, key, value, rng):
    """With gates after which what came before still counts."""
    assert Sizes(1, time, heads, 1, key, value, 1.0).paired
    arrays = arguments(rng, 1, time, heads, 1, key, value, "start")
    assert_gradients_match(kernel(), reference(), arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("a part of a chunk, shared keys", "mixed"),
        ("several tiles of values", "strong"),
        ("two slabs of keys", "mixed"),
    ],
)
@pytest.mark.usefixtures("simulated")
def test_values_and_gradients_with_other_gates(case, kind, rng):
    batch, time, heads, groups, key, value, options = CASES[case]
    arrays = arguments(rng, batch, time, heads, groups, key, value, kind)
    assert_gradients_match(
        kernel(**options), reference(**options), arrays, GRADIENTS, value_bound=VALUES
    )


@pytest.mark.parametrize("kind", ["0", "-1e-6", "-0.05", "-5", "-50", "strong", "mixed"])
@pytest.mark.usefixtures("simulated")
def test_no_gate_costs_digits(kind, rng):
    q, k, v, gate, start = arguments(rng, 1, 100, 1, 1, 64, 64, kind)
    gate[:, 0] = np.maximum(gate[:, 0], -5)  # or no gradient reaches the initial state
    arrays = (q, k, v, gate, start)
    assert_gradients_match(kernel(), reference(), arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.usefixtures("simulated")
def test_a_small_gate_has_no_errors_of_scores_without_gates(rng):
    arrays = arguments(rng, 1, 1, 1, 1, 64, 64, "-50")
    assert_gradients_match(kernel(), reference(), arrays, GRADIENTS, argnums=(3,))


@pytest.mark.usefixtures("simulated")
def test_gates_below_the_range_of_float32(rng):
    """exp(-200) is 0 in float32, and so are gradients of gates; -inf is a reset."""
    q, k, v, gate, start = arguments(rng, 1, 70, 1, 1, 64, 64, "-200")
    gate[:, 7] = -np.inf
    run = kernel()
    arrays = (q, k, v, gate, start)
    assert_gradients_match(
        run, reference(), arrays, GRADIENTS, argnums=(0, 1, 2), value_bound=VALUES
    )
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(run(*x)[0]), (3, 4)))(*arrays)
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.usefixtures("simulated")
def test_segments_of_sequences_too_few_for_the_card(rng, monkeypatch):
    assert segments.segment_count(1, 32768, 4, 256) == 8
    assert segments.segment_count(8, 2048, 4, 256) == segments.segment_count(1, 32767, 4, 256) == 1
    assert segments.segment_count(1, 2048, 1, 64) == 4
    assert segments.segment_count(8, 1024, 8, 64) == segments.segment_count(1, 1024, 1, 64) == 1
    assert segments.segment_count(8, 1024, 8, 64, twice=True) == 2
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 8)
    arrays = arguments(rng, 1, 256, 2, 1, 64, 64, "spiky")
    assert segments.segment_count(1, 256, 2, 64) == 4
    assert_gradients_match(kernel(), reference(), arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.usefixtures("simulated")
def test_one_channel_and_no_gate(rng):
    q, k, v, gate, start = arguments(rng, 1, 70, 1, 1, 64, 64)
    arrays = (q, k, v, gate[..., :1], start)
    assert_gradients_match(
        kernel(), reference(), arrays, GRADIENTS, argnums=(0, 1, 2, 4), value_bound=VALUES
    )
    # the gradient of one gate is a sum over K channels, in which terms cancel but errors do not
    assert_gradients_match(kernel(), reference(), arrays, 1e-2, argnums=(3,), value_bound=VALUES)
    found, wanted = (run()(q, k, v)[0] for run in (kernel, reference))
    assert error_ratio(found, wanted) <= VALUES


@pytest.mark.usefixtures("simulated")
def test_keys_of_256_channels_in_segments_have_gradients(rng, monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "_LEAST_SEGMENTS", 2)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 2)
    arrays = arguments(rng, 1, 256, 1, 1, 256, 64)
    assert segments.segment_count(1, 256, 1, 64) == 2
    assert_gradients_match(kernel(), reference(), arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.usefixtures("simulated")
def test_keys_of_256_channels_without_gradients(split, rng, monkeypatch):
    """Without states; split, of segments from a state of zero, too."""
    if split:
        monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
        monkeypatch.setattr(segments, "_LEAST_SEGMENTS", 2)
        monkeypatch.setattr(segments, "MULTIPROCESSORS", 8)
    arrays = arguments(rng, 1, 200 if not split else 128, 2, 1, 256, 128, "spiky")
    assert (segments.segment_count(1, len(arrays[0][0]), 2, 128) > 1) == split
    for found, wanted in zip(kernel()(*arrays), reference()(*arrays), strict=True):
        assert error_ratio(found, wanted) <= VALUES


@pytest.mark.parametrize(
    ("former", "latter", "time", "key"),
    [("start", "strong", 100, 64), ("spiky", "mixed", 100, 64), ("start", "mixed", 140, 128)],
)
@pytest.mark.usefixtures("simulated")
def test_prefixes_are_equal_bit_by_bit(former, latter, time, key, rng):
    """Outputs, and gradients of a loss on a prefix, whatever follows it; and in a second run."""
    cut = 70
    first, other = (
        inputs(rng, (1,), time, 1, 1, key, 64, kind, "bfloat16") for kind in (former, latter)
    )
    after = np.arange(time)[None, :, None, None] >= cut
    second = tuple(np.where(after, b, a) for a, b in zip(first, other, strict=True))

    @jax.jit
    def run(*arrays):
        def prefix(*arrays):
            return gated_linear_attention(*arrays, implementation="pallas_gpu")[:, :cut]

        out, pull = jax.vjp(prefix, *arrays)
        return out, *(x[:, :cut] for x in pull(jnp.sin(out)))

    found = run(*first)
    for same in (run(*second), run(*first)):
        for a, b in zip(found, same, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("simulated")
def test_vmap_agrees(rng):
    arrays = [inputs(rng, (), 20, 1, 1, 64, 64, dtype="bfloat16") for _ in range(2)]
    q, k, v, gate = (np.stack(x) for x in zip(*arrays, strict=True))
    start = state(rng, 1, 64, 64)

    def loss(q, k, v, gate, start):
        out, final = kernel()(q, k, v, gate, start)
        return jnp.sum(out.astype(jnp.float32) ** 2) + jnp.sum(final**2)

    run = jax.jit(jax.value_and_grad(loss, (0, 3, 4)))
    each = jax.tree.map(lambda *x: jnp.stack(x), *(run(*a, start) for a in arrays))
    found = jax.vmap(run, (0, 0, 0, 0, None))(q, k, v, gate, start)
    assert_close("vmap", found, each, 1e-6)


@pytest.mark.usefixtures("simulated")
def test_second_derivatives_are_those_of_xla(rng):
    q, k, v, gate = inputs(rng, (1,), 20, 1, 1, 64, 64, dtype="bfloat16")

    def norm(gate, implementation):
        def loss(gate):
            out = gated_linear_attention(q, k, v, gate, implementation=implementation)
            return jnp.sum(out.astype(jnp.float32) ** 2)

        return jnp.sum(jax.grad(loss)(gate) ** 2)

    second = jax.jit(jax.grad(norm), static_argnums=1)
    assert error_ratio(second(gate, "pallas_gpu"), second(gate, "xla")) <= 1e-2


@pytest.mark.parametrize(("key", "states"), [(64, 3), (128, 2)])
@pytest.mark.usefixtures("simulated")
def test_residuals_are_the_arguments_states_and_images(key, states, rng):
    """Of three chunks; at larger K states before every second one."""
    q, k, v, gate, start = arguments(rng, 1, 150, 1, 1, key, 128)

    def run(q, k, v, gate, start):
        options = {"scale": 1.0, "chunk_size": 64, "precision": jax.lax.Precision.HIGHEST}
        return apply.gated_linear_attention(q, k, v, gate, None, start, None, None, **options)

    _, pull = jax.vjp(run, *map(jnp.asarray, (q, k, v, gate, start)))
    kept = sorted(x.nbytes for x in jax.tree.leaves(pull) if np.size(x) > 1)
    images = 3 * (2 * 64 * key * 2 + 64 * 64 * 2 + 4 * key)  # queries, keys, scores, decays
    wanted = [*(x.nbytes for x in (q, k, v, gate, start)), states * key * 128 * 2, images]
    assert kept == sorted(wanted)


@pytest.mark.parametrize("key", [64, 128, 256])
def test_scratch_fits(key):
    sizes = Sizes(1, 128, 1, 1, key, 64, 1.0)
    taken = [prepare.shared_bytes(sizes), gradient_layout.make_plan(sizes.in_parts()).shared_bytes]
    for keeps in (False, True):
        taken.append(recurrent_plan.make_plan(sizes, keeps=keeps).shared_bytes)
    assert max(taken) <= SHARED_LIMIT


def struct(*shape, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.pallas
@pytest.mark.parametrize(
    ("time", "heads", "groups", "key", "value", "launches"),
    [(300, 2, 1, 128, 256, 4), (64, 1, 1, 64, 64, 4), (128, 1, 1, 256, 512, 4)],
)
def test_kernels_lower_for_cuda(time, heads, groups, key, value, launches):
    def loss(*arrays):
        out = gated_linear_attention(*arrays, implementation="pallas_gpu")
        return jnp.sum(out.astype(jnp.float32))

    q, k = struct(2, time, heads, key), struct(2, time, groups, key)
    v, gate = struct(2, time, groups, value), struct(*k.shape, dtype="float32")
    with assume_platform("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(q, k, v, gate)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == launches


@pytest.mark.pallas
@pytest.mark.parametrize("reads_final", [False, True])
def test_no_zeros_are_read_for_final_states_that_nothing_reads(reads_final):
    def loss(*arrays):
        out, final = attention("pallas_gpu")(*arrays)
        return jnp.sum(out.astype(jnp.float32)) + (jnp.sum(final) if reads_final else 0.0)

    rows, gate = struct(2, 128, 3, 256), struct(2, 128, 3, 256, dtype="float32")
    with assume_platform("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(rows, rows, rows, gate)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    operands = re.findall(r"custom_call @mosaic_gpu\w*\((.*?)\)", text)
    assert sorted(x.count("%") for x in operands) == [2, 2 + reads_final, 3, 8]


@pytest.mark.usefixtures("simulated")
def test_final_states_alone_have_gradients(rng):
    """And outputs alone: what has no cotangent counts as zero."""
    arrays = arguments(rng, 1, 70, 1, 1, 64, 64)
    for index in (0, 1):

        def one(run, *arrays, index=index):
            return run(*arrays)[index]

        found, wanted = (functools.partial(one, make()) for make in (kernel, reference))
        assert_gradients_match(found, wanted, arrays, GRADIENTS, argnums=(1, 2, 3, 4))


@pytest.mark.pallas
@pytest.mark.parametrize(
    "attend",
    [
        gated_linear_attention,
        functools.partial(sequence_parallel_gated_linear_attention, axis_name="shards"),
    ],
)
def test_kernels_lower_inside_shard_map(attend):
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "shards")
    run = functools.partial(attend, implementation="pallas_gpu")

    def loss(*arrays):
        out = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)(*arrays)
        return jnp.sum(out.astype(jnp.float32))

    rows = struct(2, 256, 1, 64)
    with assume_platform("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(
            rows, rows, rows, struct(*rows.shape, dtype="float32")
        )
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "custom_call @mosaic_gpu" in text


def choose(q=None, implementation="pallas_gpu", platform="gpu", rest=(None,) * 5, size=64):
    q = struct(2, 256, 4, size) if q is None else q
    return dispatcher.choose(
        q, q, q, *rest, implementation=implementation, platform=platform, chunk_size=64
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"q": struct(2, 256, 4, 64, dtype="float32")}, "not float32"),
        ({"rest": (None, struct(2, 256, 4, 64), None, None, None)}, "no log_value_gate"),
        ({"rest": (None, None, None, None, object())}, "no states of packed"),
        ({"size": 512}, "K = 512"),
        ({"q": struct(0, 256, 4, 64)}, "nothing to do"),
        ({"platform": "tpu"}, "this is tpu"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(options, reason):
    with pytest.raises(NotImplementedError, match=reason):
        choose(**options)


def test_other_gpus_are_refused(monkeypatch):
    assert choose().name == "pallas_gpu"
    monkeypatch.setattr(pallas, "gpu_compute_capability", lambda: "8.0")
    with pytest.raises(NotImplementedError, match=r"9\.0; this one has 8\.0"):
        choose()


def test_the_choice_on_gpu(monkeypatch):
    assert choose(implementation=None).name == "xla"  # among devices of unknown sharding
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "faster than xla" in choose(implementation=None).why
    assert choose(struct(2, 32, 4, 64), None).name == "xla"
    assert choose(struct(2, 256, 4, 64, dtype="float32"), None).name == "xla"
    assert choose(implementation=None, size=96).name == "pallas_gpu"
    assert choose(implementation=None, size=16).name == "xla"  # 16 times as large when padded
    assert choose(size=16).name == "pallas_gpu"


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize("kind", ["start", "-1e-6", "-5", "-50", "spiky", "strong", "mixed"])
@pytest.mark.parametrize(
    ("time", "heads", "groups", "key", "value"),
    [
        (1, 64, 64, 64, 64),  # enough that the errors of single scores do not count
        (63, 2, 2, 64, 64),
        (64, 2, 1, 128, 128),
        (1000, 4, 2, 128, 256),
        (2048, 2, 2, 128, 256),
        (150, 2, 1, 128, 128),
        (200, 1, 1, 256, 512),
    ],
)
def test_values_and_gradients_on_the_gpu(time, heads, groups, key, value, kind, rng):
    """Acceptance: outputs and states 4e-3 and 3e-3, gradients 5e-3; the same bits in every run."""
    arrays = arguments(rng, 2, time, heads, groups, key, value, kind)
    shapes = (2, time, heads, value), arrays[4].shape
    out, final = map(rng.standard_normal, shapes)
    out = np.asarray(jnp.asarray(out, jnp.bfloat16), np.float64)  # for both

    @functools.partial(jax.jit, static_argnums=0)
    def run(implementation, *arrays):
        results, pull = jax.vjp(attention(implementation), *arrays)
        given = zip((out, final), results, strict=True)
        return *results, *pull(tuple(jnp.asarray(x, like.dtype) for x, like in given))

    found, again = run("pallas_gpu", *arrays), run("pallas_gpu", *arrays)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in arrays]
        wanted = [np.asarray(x) for x in run("reference", *wide)]
    bounds = {"o": VALUES, "state": 3e-3} | dict.fromkeys(
        ("dq", "dk", "dv", "dg", "dstate"), GRADIENTS
    )
    for (name, bound), got, same, want in zip(bounds.items(), found, again, wanted, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(same)), name
        # what is below the range of float32 is zero
        scale = 1.0 if np.max(np.abs(want)) < 1e-30 else None
        assert error_ratio(np.asarray(got), want, scale=scale) <= bound, name

"""The Hopper kernels on ranks that share a sequence, simulated: states in the midst of launches."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers._core.dispatch import assume_platform
from structlayers.gla import sequence_parallel_gated_linear_attention
from structlayers.gla.pallas_gpu import segments
from structlayers.gla.sequence_axis import EXCHANGED
from structlayers.testing import assert_close, assert_gradients_match
from tests.gla.cases import attention, inputs, state

VALUES, GRADIENTS = 4e-3, 5e-3
TIME = P(None, "time")


def over_ranks(ranks: int, *, implementation: str = "pallas_gpu", **options: Any) -> Any:
    """Outputs and final states as a jitted function of whole arrays, like `attention`."""
    check_vma = options.pop("check_vma", True)
    ids = options.pop("segment_ids", None)
    mesh = jax.make_mesh(
        (ranks,), ("time",), axis_types=(AxisType.Auto,), devices=jax.devices()[:ranks]
    )

    @jax.jit
    def run(q, k, v, gate, start=None):
        def local(q, k, v, gate, start, ids):
            return sequence_parallel_gated_linear_attention(
                q,
                k,
                v,
                gate,
                axis_name="time",
                initial_state=start,
                segment_ids=ids,
                output_final_state=True,
                implementation=implementation,
                **options,
            )

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(TIME, TIME, TIME, TIME, P(), TIME),
            out_specs=(TIME, P()),
            check_vma=check_vma,
        )(q, k, v, gate, start, ids)

    return run


def draw(rng, time, heads=1, groups=1, key=64, value=64, kind="spiky", start=True):
    arrays = inputs(rng, (1,), time, heads, groups, key, value, kind, "bfloat16")
    return (*arrays, state(rng, 1, groups, key, value)) if start else arrays


@pytest.fixture
def many_segments(monkeypatch):
    """Two segments of 64 tokens on every rank."""
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 4)
    assert segments.segment_count(1, 128, 2, 64, twice=True) == 2


IDS = np.repeat([[0, 1, 2]], [10, 30, 40], axis=1)

# ranks, tokens of all, sizes and start, options
CASES: dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]] = {
    "three ranks, reverse": (3, 60, {}, {"reverse": True}),
    "keys in halves": (2, 40, {"key": 256}, {"check_vma": False}),
    "sizes that are padded, no initial state": (
        2,
        60,
        {"key": 40, "value": 72, "start": False},
        {"scale": 0.3},
    ),
    "a sequence begins where a rank does": (2, 80, {}, {"segment_ids": IDS}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("simulated")
def test_values_and_gradients(case, rng):
    ranks, time, sizes, options = CASES[case]
    arrays = draw(rng, time, **sizes)
    run = over_ranks(ranks, **options)
    options = {name: value for name, value in options.items() if name != "check_vma"}
    reference = attention("reference", **options)
    assert_gradients_match(run, reference, arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.usefixtures("simulated", "many_segments")
def test_segments_within_ranks_and_shared_keys(rng):
    arrays = draw(rng, 256, heads=2)
    reference = attention("reference")
    assert_gradients_match(over_ranks(2), reference, arrays, GRADIENTS, value_bound=VALUES)


@pytest.mark.usefixtures("simulated")
def test_states_equal_those_of_one_device(rng):
    """Final states and gradients of initial ones have seen no bfloat16 on their way over ranks."""
    arrays = draw(rng, 128, kind="mixed")
    cotangent = state(rng, 1, 1, 64, 64)

    def run(fn, *arrays):
        final, pull = jax.vjp(lambda *arrays: fn(*arrays)[1], *arrays)
        return final, pull(cotangent)[-1]

    found, wanted = (run(fn, *arrays) for fn in (over_ranks(2), attention("pallas_gpu")))
    assert_close("states", found, wanted, 1e-6)


def lowered(fn: Callable[..., Any], time: int, heads: int) -> str:
    """The program for GPUs at K/V = 256/512."""
    q, v = (jax.ShapeDtypeStruct((1, time, heads, size), "bfloat16") for size in (256, 512))
    gate = jax.ShapeDtypeStruct(q.shape, "float32")
    with assume_platform("gpu"):
        return jax.jit(fn).trace(q, q, v, gate).lower(lowering_platforms=("cuda",)).as_text()


def with_gradients(fn: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arrays):
        out, pull = jax.vjp(lambda *arrays: fn(*arrays)[0], *arrays)
        return out, pull(out)

    return run


@pytest.mark.pallas
@pytest.mark.parametrize(("heads", "more"), [(4, 0), (64, 2)])
def test_ranks_launch_what_one_device_does(heads, more):
    """One pass each way is their own where one device does not cut sequences in segments."""
    time, ranks = 32768, 2
    programs = [
        lowered(with_gradients(attention("pallas_gpu")), time, heads),
        lowered(with_gradients(over_ranks(ranks)), ranks * time, heads),
    ]
    one, spread = (text.count("custom_call @mosaic_gpu") for text in programs)
    assert spread == one + more
    collectives = re.findall(
        r'stablehlo\.(all_\w+|collective_permute|reduce_scatter)"', programs[1]
    )
    assert collectives == ["all_gather"] * 2
    for numbers in (256 * 512 + 256, 256 * 512):  # states with decays, then gradients of states
        assert f"-> tensor<{ranks}x1x{heads}x{numbers}xf32>" in programs[1]


@pytest.mark.usefixtures("simulated")
def test_what_ranks_receive_can_be_kept(rng):
    """With the policy that the name is for the collective does not run again on the way back."""
    arrays = draw(rng, 128)
    run = over_ranks(2)
    keep = jax.checkpoint_policies.save_only_these_names(EXCHANGED)

    def gathers(policy):
        def loss(*arrays):
            out, _ = jax.checkpoint(run, policy=policy)(*arrays)
            return jnp.sum(out.astype(jnp.float32))

        text = jax.jit(jax.value_and_grad(loss)).lower(*arrays).as_text()
        return text.count("stablehlo.all_gather")

    assert (gathers(keep), gathers(None)) == (2, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_second_derivatives_are_those_of_xla(rng):
    q, k, v, gate, start = draw(rng, 16, kind="start")

    def second(implementation):
        fn = over_ranks(2, implementation=implementation, chunk_size=4)

        def norm(gate, start):
            def loss(gate, start):
                out, final = fn(q, k, v, gate, start)
                return jnp.sum(out.astype(jnp.float32) ** 2) + jnp.sum(final**2)

            first = jax.grad(loss, (0, 1))(gate, start)
            return sum(jnp.sum(x**2) for x in first)

        return jax.jit(jax.grad(norm, (0, 1)))(gate, start)

    assert_close("second", second("pallas_gpu"), second("xla"), 1e-2)


@pytest.mark.usefixtures("simulated")
def test_vmap_agrees(rng):
    drawn = [draw(rng, 64, kind="start")[:4] for _ in range(2)]
    attend = functools.partial(
        sequence_parallel_gated_linear_attention, axis_name="time", implementation="pallas_gpu"
    )
    mesh = jax.make_mesh((2,), ("time",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spec = P(None, None, "time")
    mapped = jax.shard_map(jax.vmap(attend), mesh=mesh, in_specs=spec, out_specs=spec)
    found = jax.jit(mapped)(*(np.stack(x) for x in zip(*drawn, strict=True)))
    for one, arrays in zip(found, drawn, strict=True):
        wanted, _ = over_ranks(2)(*arrays)
        np.testing.assert_array_equal(one, wanted)

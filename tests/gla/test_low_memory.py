"""low_memory: the bits of one launch, in ranges of chunks that write in place."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.gla import low_memory
from structlayers.gla.low_memory import is_low_memory
from structlayers.gla.pallas_gpu import ranges, segments
from structlayers.gla.pallas_gpu.layout import Sizes
from tests.gla.cases import attention, inputs
from tests.gla.test_pallas_gpu import arguments, kernel, struct


@pytest.fixture
def short(monkeypatch):
    """Ranges of two chunks of short sequences."""
    monkeypatch.setattr(ranges, "_LEAST_CHUNKS", 3)


def results(arrays, *, starts=True, reads_final=True):
    """Outputs, final states, and gradients of all arguments."""
    arrays = arrays if starts else arrays[:-1]

    def run(*arrays):
        out, final = kernel()(*arrays) if starts else kernel()(*arrays, None)
        return (out, final) if reads_final else out

    found, pull = jax.vjp(run, *arrays)
    return found, pull(jax.tree.map(jnp.cos, found))


def assert_same_bits(arrays, **options):
    """With and without ranges."""
    wanted = results(arrays, **options)
    with low_memory():
        found = results(arrays, **options)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.all(np.isfinite(other.astype(jnp.float32)))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("time", "heads", "groups", "key", "value", "parts"),
    [
        (256, 1, 1, 64, 64, 2),
        (300, 2, 1, 64, 64, 3),
        (192, 2, 1, 128, 64, 2),  # a last range of one chunk, without a neighbour
        (256, 1, 1, 128, 128, 2),
        (290, 1, 1, 128, 64, 3),
        (250, 1, 1, 256, 64, 2),
        (192, 1, 1, 256, 64, 2),
    ],
)
@pytest.mark.usefixtures("simulated", "short")
def test_ranges_have_the_bits_of_one_launch(time, heads, groups, key, value, parts, rng):
    sizes = Sizes(1, time, heads, groups, key, value, 1.0)
    assert len(ranges.ranges_of(sizes, wanted=True)) == parts
    assert_same_bits(arguments(rng, 1, time, heads, groups, key, value, "spiky"))


@pytest.mark.parametrize("key", [64, 128])
@pytest.mark.parametrize(("starts", "reads_final"), [(False, False), (True, False), (False, True)])
@pytest.mark.usefixtures("simulated", "short")
def test_without_initial_states_or_cotangents_of_final_ones(key, starts, reads_final, rng):
    arrays = arguments(rng, 2, 192, 1, 1, key, 64, "start")
    assert_same_bits(arrays, starts=starts, reads_final=reads_final)


@pytest.mark.usefixtures("simulated", "short")
def test_ranges_of_segments(rng, monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_CHUNKS", 1)
    monkeypatch.setattr(segments, "_LEAST_SEGMENTS", 2)
    monkeypatch.setattr(segments, "MULTIPROCESSORS", 2)
    assert segments.segment_count(1, 512, 1, 64) == 2
    assert_same_bits(arguments(rng, 1, 512, 1, 1, 64, 64, "start"))


@pytest.mark.usefixtures("simulated", "short")
def test_vmap_in_ranges(rng):
    arrays = inputs(rng, (2, 1), 192, 1, 1, 128, 64, dtype="bfloat16")

    def loss(*arrays):
        return jnp.sum(kernel()(*arrays, None)[0].astype(jnp.float32) ** 2)

    gradients = jax.vmap(jax.grad(loss, (0, 1, 2, 3)))
    wanted = gradients(*arrays)
    with low_memory():
        found = gradients(*arrays)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("chunks", [1, 63, 64, 65, 71, 72, 73, 128, 129, 1000])
@pytest.mark.parametrize("key", [64, 128])
def test_ranges_are_all_chunks_and_part_no_pair(chunks, key):
    sizes = Sizes(1, 64 * chunks, 1, 1, key, 64, 1.0)
    assert ranges.ranges_of(sizes, wanted=False) == [range(chunks)]
    found = ranges.ranges_of(sizes, wanted=True)
    assert [x for one in found for x in one] == list(range(chunks))
    assert len(found) == (4 if chunks >= 64 else 1)
    if len(found) > 1:
        assert {len(one) for one in found[:-1]} == {len(found[0])}
        assert len(found[0]) % 2 == 0
        assert 0 < len(found[-1]) <= len(found[0])


@pytest.mark.pallas
@pytest.mark.parametrize(
    ("key", "value", "heads", "groups"), [(64, 64, 1, 1), (128, 64, 2, 1), (256, 64, 1, 1)]
)
@pytest.mark.parametrize(("time", "launches"), [(4032, 4), (4100, 10)])
def test_ranges_lower_for_cuda(key, value, heads, groups, time, launches):
    """Two launches of the forward pass, two of each range; no zeros are made for results."""

    def loss(*arrays):
        out, final = attention("pallas_gpu")(*arrays)
        return jnp.sum(out.astype(jnp.float32)) + jnp.sum(final)

    q, k = struct(2, time, heads, key), struct(2, time, groups, key)
    v, gate = struct(2, time, groups, value), struct(*k.shape, dtype="float32")
    with assume_platform("gpu"), low_memory():
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(q, k, v, gate)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == launches
    aliases = [
        x.count("output_operand_alias<") for x in re.findall(r"custom_call @mosaic_gpu.*", text)
    ]
    in_place = [] if launches == 4 else [1, *[3, 4] * 3]
    assert [x for x in aliases if x] == in_place


def test_it_ends_with_the_block():
    with low_memory():
        assert is_low_memory()
    assert not is_low_memory()

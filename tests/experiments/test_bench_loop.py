"""The timing loop: it runs the op as often as it says, all of it, on unchanged inputs."""

import re
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import timing
from experiments.bench.loop import (
    build_loop,
    build_overhead_loop,
    first_entries,
    read_entries,
    rewrite_entries,
)


def _normal(*shape, dtype="float32", seed=0):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def _hlo(compiled) -> str:
    text = compiled.as_text()
    assert text is not None
    return text


def _compile(fn, sets, steps):
    carry = jax.tree.map(jnp.copy, (sets, [fn(*arrays) for arrays in sets]))
    return jax.jit(build_loop(fn, steps), donate_argnums=0).lower(carry).compile(), carry


def _computations(text):
    """Name -> text of each computation of an HLO module; the entry's name is "ENTRY"."""
    found = {}
    for block in re.split(r"\n(?=%|ENTRY)", text)[1:]:
        found["ENTRY" if block.startswith("ENTRY") else block[1:].split(" ")[0]] = block
    return found


def _body_of_while(text):
    """Text of the body of the only while loop and of everything it calls."""
    computations = _computations(text)
    (body,) = set(re.findall(r"while\(.*?body=%([\w.-]+)", text))
    reached, found = [body], ""
    while reached:
        block = computations[reached.pop()]
        found += block
        for callee in re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", block):
            reached.append(callee)
    return found


@pytest.mark.parametrize(("steps", "num_sets"), [(1, 1), (7, 1), (3, 4)])
def test_runs_the_op_exactly_steps_times_sets(steps, num_sets):
    calls = []

    def counted(x):
        jax.experimental.io_callback(lambda: calls.append(None), None)
        return x * 2

    sets = [(_normal(4, seed=index),) for index in range(num_sets)]
    results = [arrays[0] * 2 for arrays in sets]
    jax.block_until_ready(jax.jit(build_loop(counted, steps))((sets, results)))
    assert len(calls) == steps * num_sets


def test_twice_the_steps_take_twice_the_time():
    x = _normal(64, 256)
    short, long = (
        _compile(lambda a, b: jnp.sort(a + b), [(x, x + 1)], steps) for steps in (20, 40)
    )
    carries, ratios = [short[1], long[1]], []
    for _ in range(9):
        seconds = []
        for index, compiled in enumerate((short[0], long[0])):
            # Processor time: other work on the machine does not count.
            start = time.process_time()
            carries[index] = jax.block_until_ready(compiled(carries[index]))
            seconds.append(time.process_time() - start)
        ratios.append(seconds[1] / seconds[0])
    assert 1.7 < statistics.median(ratios) < 2.3


def test_work_on_inputs_that_never_change_stays_in_the_loop():
    # Sorting the weights does not depend on x: a plain loop does it once, this one every time.
    def fn(x, w):
        return x + jnp.sort(w)[:4]

    def plain(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, y: fn(y, w), x)

    x, w = _normal(4), _normal(4096)
    hoisted = _hlo(jax.jit(plain).lower(x, w).compile())
    assert hoisted.count(" sort(") == 1
    assert " sort(" not in _body_of_while(hoisted)
    kept = _hlo(_compile(fn, [(x, w)], 5)[0])
    assert kept.count(" sort(") == 1
    assert " sort(" in _body_of_while(kept)
    assert re.search(r'known_trip_count[^}]*"5"', kept)


def test_whole_result_is_computed_and_inputs_are_returned_unchanged():
    sets = [(_normal(5, 8, seed=index), _normal(8, 3, seed=index + 9)) for index in range(2)]
    stale = [jnp.full((5, 3), jnp.nan) for _ in sets]
    after, results = jax.jit(build_loop(jnp.matmul, 3))((sets, stale))
    for arrays, same, result in zip(sets, after, results, strict=True):
        for one, other in zip(arrays, same, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(result, arrays[0] @ arrays[1], rtol=1e-5, atol=1e-5)


def test_no_large_copies_in_the_loop():
    def einsum(x, w):  # its result comes out transposed and has to be turned
        return jnp.einsum("bpk,pjk->bpj", x.reshape(-1, 16, 16), w)

    sets = [(_normal(512, 256), _normal(16, 16, 16))]
    compiled, _ = _compile(einsum, sets, 4)
    single = _hlo(jax.jit(einsum).lower(*sets[0]).compile())
    count = r"= f32\[512,[0-9,]*\]\S* (?:copy|transpose)\("
    loop = _hlo(compiled)
    in_body = len(re.findall(count, _body_of_while(loop)))
    # As many as a single call has, and none that has moved out of the loop to be done once.
    assert in_body == len(re.findall(count, single)) == len(re.findall(count, loop))


@pytest.mark.parametrize("rounds", [1, 2])
def test_overhead_loop_copies_nothing_large(rounds):
    carry = ((_normal(64, 256), _normal(16, 16)), _normal(1024))
    loop = jax.jit(build_overhead_loop(rounds, 3), donate_argnums=0)
    compiled = loop.lower(carry).compile()
    assert not re.search(r"= f32\[(64,256|16,16)\]\S* copy\(", _hlo(compiled))
    kept = jax.tree.map(np.asarray, carry[0])
    after, _ = compiled(carry)
    for one, other in zip(kept, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("position", [0, -1])
def test_rewriting_keeps_every_value(dtype, position):
    x = (_normal(3, 5, seed=1) * 50).astype(dtype) if dtype != "bool" else _normal(3, 5) > 0
    empty, scalar = jnp.zeros((0, 2), dtype), jnp.ones((), dtype)
    key = jax.random.key(3)
    tree = {"x": x, "rest": [empty, scalar], "key": key}

    @jax.jit
    def rewrite(tree, value):
        return rewrite_entries(tree, read_entries(tree, position), value, position)

    same = rewrite(tree, jnp.ones(()))
    np.testing.assert_array_equal(same["x"], x)
    np.testing.assert_array_equal(same["rest"][1], scalar)
    assert same["key"] == key
    assert jnp.isfinite(first_entries(tree))


@pytest.mark.parametrize(("position", "place"), [(0, (0, 0)), (-1, (1, 2))])
def test_rewriting_depends_on_the_scalar(position, place):
    x = _normal(2, 3)
    hit = rewrite_entries(x, read_entries(x, position), jnp.float32(1.2345e-30), position)
    np.testing.assert_array_equal(hit, x.at[place].add(1))


def test_rewriting_one_entry_does_not_pass_over_the_array():
    x = _normal(2048, 1024)  # 8 MiB: a pass takes some milliseconds
    steps = 20
    (samples,) = timing.sample_loops(
        [build_loop(lambda x: 2 * x[:1, :1], steps)], [([(jnp.copy(x),)], [x[:1, :1]])], 20
    )
    assert min(samples) / steps < 1e-4
    assert timing.overhead_seconds((x,)) < 1e-4


def test_time_loop_measures_what_a_clock_measures():
    x = _normal(64, 256)
    found = timing.time_loop(jnp.sort, [(x,)], "warm", repeats=40, target_seconds=2e-3)
    call = jax.jit(jnp.sort)
    jax.block_until_ready(call(x))
    clocked = min(timing.seconds_of(lambda: call(x)) for _ in range(200))
    assert found.timer == "loop"
    assert found.resolved
    # The fastest of each: other work on the machine only adds.
    assert 0.5 * clocked < min(found.samples) < 2 * clocked
    spread = found.spread()
    assert spread["min"] <= spread["p10"] <= found.median <= spread["p90"] <= spread["max"]
    assert spread["n"] == 40


def test_plan_sets():
    cache = timing.cache_bytes("gpu")
    assert timing.plan_sets(3 * cache, "gpu") == (1, "cold")
    assert timing.plan_sets(cache // 2, "gpu") == (5, "cold")
    assert timing.plan_sets(cache // 100, "gpu") == (1, "warm")
    assert timing.plan_sets(cache // 25, "gpu", limit=64) == (63, "cold")
    assert timing.cache_bytes("cpu") >= 2**18


def test_a_median_below_the_overhead_is_not_resolved():
    found = timing.Timing((1e-9, 2e-9), 10, 1, "warm", 1e-6, "loop")
    assert not found.resolved
    assert timing.Timing((-1e-9,), 10, 1, "warm", 0.0, "loop").resolved is False

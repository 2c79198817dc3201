"""The parts of the family: one step, gate sums, packing, short convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.gla import (
    gated_linear_attention,
    gated_linear_attention_decode,
    gated_linear_attention_step,
    short_convolution,
)
from structlayers.gla.gates import interval_sums
from structlayers.gla.packing import chunk_packing, pack, unpack
from structlayers.testing import assert_close, assert_gradients_match
from tests.gla.cases import inputs, log_gates, log_sigmoid, recurrence, state


@pytest.mark.parametrize("implementation", ["xla", "reference", None])
@pytest.mark.parametrize("form", ["vector", "scalar", "none", "value", "scalar value"])
def test_a_step_is_the_definition(form, implementation, rng):
    q, k, v, gate = inputs(rng, (3,), 1, 4, 2, 5, 7, "spiky")
    value_gate = log_gates(rng, v.shape, "start")
    value_gate = {"value": value_gate, "scalar value": value_gate[..., :1]}.get(form)
    gate = {"scalar": gate[..., :1], "none": None, "value": gate[:1, :, :1]}.get(form, gate)
    memory = state(rng, 3, 2, 5, 7)
    out, new = gated_linear_attention_step(
        q[:, 0],
        k[:, 0],
        v[:, 0],
        None if gate is None else gate[:, 0],
        memory,
        log_value_gate=None if value_gate is None else value_gate[:, 0],
        scale=0.5,
        implementation=implementation,
    )
    gate = np.broadcast_to(np.zeros(1) if gate is None else gate, k.shape)
    value_gate = np.broadcast_to(np.zeros(1) if value_gate is None else value_gate, v.shape)
    for b in range(3):
        wanted, last = recurrence(q[b], k[b], v[b], gate[b], value_gate[b], memory[b], 0.5)
        assert_close("step", (out[b], new[b]), (wanted[0], last), 3e-7)


@pytest.mark.parametrize("implementation", ["xla", "reference", None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_is_gate_step_norm_and_output_gate(dtype, implementation, rng):
    q, k, v, logits = (np.asarray(x)[:, 0] for x in inputs(rng, (3,), 1, 4, 2, 5, 7, "0", dtype))
    logits = logits + 5 * rng.standard_normal(logits.shape).astype(np.float32)
    memory, weights = state(rng, 3, 2, 5, 7), state(rng, 7)
    gate = np.asarray(jnp.asarray(rng.standard_normal((3, 4, 7)), dtype))
    out, new = gated_linear_attention_decode(
        q,
        k,
        v,
        logits,
        memory,
        gate,
        weights,
        gate_logit_normalizer=4,
        norm_epsilon=0.1,
        implementation=implementation,
    )
    assert out.dtype == dtype
    exact = np.asarray(gate, np.float64)
    for b in range(3):
        log_gate = log_sigmoid(logits[b : b + 1].astype(np.float64)) / 4
        row = slice(b, b + 1)
        o, last = recurrence(q[row], k[row], v[row], log_gate, np.zeros(1), memory[b], 5**-0.5)
        o = o[0] / np.sqrt(np.mean(o[0] ** 2, -1, keepdims=True) + 0.1) * weights
        wanted = exact[b] / (1 + np.exp(-exact[b])) * o
        assert_close("output", out[b], wanted, 5e-7 if dtype == "float32" else 5e-3)
        assert_close("state", new[b], last, 3e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_go_on_where_the_sequence_ended(dtype, rng):
    arrays = inputs(rng, (2,), 20, 4, 2, 8, 6, "start", dtype)
    whole = gated_linear_attention(*arrays)
    _, memory = gated_linear_attention(*(x[:, :17] for x in arrays), output_final_state=True)
    step = jax.jit(gated_linear_attention_step)
    for t in range(17, 20):
        out, memory = step(*(x[:, t] for x in arrays), memory)
        assert_close("step", out, whole[:, t], 5e-7 if dtype == "float32" else 5e-3)


def test_gradients_and_transformations_of_a_step(rng):
    q, k, v, gate = (x[:, 0] for x in inputs(rng, (3,), 1, 4, 2, 5, 7))
    arrays = (q, k, v, gate, state(rng, 3, 2, 5, 7))

    def of(implementation):
        return jax.jit(lambda *x: gated_linear_attention_step(*x, implementation=implementation))

    assert_gradients_match(of("xla"), of("reference"), arrays, 1e-6)
    step = of("xla")
    assert_close("vmap", jax.vmap(step)(*arrays), step(*arrays), 1e-6)
    _, tangent = jax.jvp(step, arrays, arrays)
    _, wanted = jax.jvp(of("reference"), arrays, arrays)
    assert_close("jvp", tangent, wanted, 1e-6)


def test_empty_batch_of_steps():
    zeros = jnp.zeros((0, 2, 3))
    out, memory = gated_linear_attention_step(zeros, zeros, zeros, None, jnp.zeros((0, 2, 3, 3)))
    assert (out.shape, memory.shape) == ((0, 2, 3), (0, 2, 3, 3))


def test_interval_sums_are_exact_beside_strong_gates(rng):
    """A difference of cumulated sums would be off by 1e-5 or more after the first gate."""
    gates = np.concatenate([[-200.0], -1e-3 * rng.random(31)]).astype(np.float32)
    levels, (prefix, suffix) = interval_sums(jnp.asarray(gates)[:, None], 16)
    assert [level[0].shape for level in levels] == [(16, 1, 1), (8, 2, 1), (4, 4, 1), (2, 8, 1)]
    exact = gates.astype(np.float64)
    for right, left in levels:
        size = right.shape[1]
        for block in range(right.shape[0]):
            split = (2 * block + 1) * size
            wanted = np.cumsum(exact[split : split + size])
            np.testing.assert_allclose(right[block, :, 0], wanted, rtol=3e-7)
            wanted = [np.sum(exact[j + 1 : split]) for j in range(split - size, split)]
            np.testing.assert_allclose(left[block, :, 0], wanted, rtol=3e-7)
    np.testing.assert_allclose(prefix[1, :, 0], np.cumsum(exact[16:]), rtol=3e-7)
    wanted = [np.sum(exact[j + 1 : 16]) for j in range(16)]
    np.testing.assert_allclose(suffix[0, :, 0], wanted, rtol=3e-7)


@pytest.mark.parametrize(
    "ends", [[0, 3, 3, 10], [0, 0, 0], [0, 8, 12], [0, 1, 2, 3, 12], [2, 5, 9]]
)
@pytest.mark.parametrize("size", [1, 4])
def test_packing_begins_every_sequence_at_a_chunk(size, ends, rng):
    tokens = jnp.arange(1.0, 13.0)
    packing, places, total = chunk_packing(jnp.array(ends), 12, size)
    packed = np.asarray(pack(tokens, places, total)).reshape(-1, size)
    assert len(packing.sequence) == len(packed)
    for s in range(len(ends) - 1):
        mine = np.flatnonzero(packing.sequence == s)
        wanted = np.arange(ends[s], ends[s + 1]) + 1
        found = packed[mine].ravel()
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert not np.any(found[len(wanted) :])
        assert packing.last[s] == (mine[-1] if len(mine) else -1)
        np.testing.assert_array_equal(packing.first[mine], np.arange(len(mine)) == 0)
    inside = (tokens > ends[0]) & (tokens <= ends[-1])
    back = unpack(jnp.asarray(packed.ravel()), places)
    np.testing.assert_array_equal(back, np.where(inside, tokens, 0))


def test_short_convolution_equals_a_sum_over_taps(rng):
    x, kernel = rng.standard_normal((2, 9, 3)), rng.standard_normal((4, 3))
    history = rng.standard_normal((2, 3, 3))
    x, kernel, history = (a.astype(np.float32) for a in (x, kernel, history))
    joined = np.concatenate([history, x], axis=1)
    wanted = np.stack([np.sum(kernel * joined[:, t : t + 4], axis=1) for t in range(9)], axis=1)
    out = short_convolution(x, kernel, history=history)
    assert_close("convolution", out, wanted, 3e-7)
    pieces = [
        short_convolution(x[:, :5], kernel, history=history),
        short_convolution(x[:, 5:], kernel, history=joined[:, 5:8]),
    ]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), out)
    half = short_convolution(jnp.asarray(x, "bfloat16"), jnp.asarray(kernel, "bfloat16"))
    assert half.dtype == jnp.bfloat16


def test_short_convolution_keeps_to_segments(rng):
    x = rng.standard_normal((1, 9, 3)).astype(np.float32)
    kernel = rng.standard_normal((4, 3)).astype(np.float32)
    history = rng.standard_normal((1, 3, 3)).astype(np.float32)
    ids = np.repeat([4, 7, 9], [2, 3, 4])[None]
    out = short_convolution(x, kernel, history=history, segment_ids=ids)
    np.testing.assert_array_equal(out[:, :2], short_convolution(x[:, :2], kernel, history=history))
    np.testing.assert_array_equal(out[:, 2:5], short_convolution(x[:, 2:5], kernel))
    np.testing.assert_array_equal(out[:, 5:], short_convolution(x[:, 5:], kernel))

"""What does not fit is refused with the argument, what it is, and what was wanted."""

from typing import Any

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
from tests.gla.cases import inputs, state


def call(**changes: Any):
    """The op with some good arguments replaced."""

    def run(rng):
        q, k, v, gate = inputs(rng, (2,), 6, 4, 2, 3, 5)
        arrays: dict[str, Any] = {"q": q, "k": k, "v": v, "log_gate": gate}
        return gated_linear_attention(**(arrays | changes))

    return run


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


SHAPES = {
    "q rank": (call(q=zeros(4, 3)), r"q must have shape \(\*B, T, H, K\)"),
    "q empty heads": (call(q=zeros(2, 6, 0, 3)), "with H, K >= 1"),
    "k batch": (call(k=zeros(3, 6, 2, 3)), r"k must have shape .* \(2, 6, G, 3\)"),
    "k heads": (call(k=zeros(2, 6, 3, 3)), "G dividing H = 4"),
    "k width": (call(k=zeros(2, 6, 2, 4)), "k must have shape"),
    "v heads": (call(v=zeros(2, 6, 4, 5)), r"v must have shape .* \(2, 6, 2, V\)"),
    "v empty": (call(v=zeros(2, 6, 2, 0)), "V >= 1"),
    "gate rank": (call(log_gate=zeros(6, 2, 3)), r"log_gate must have shape \(2, 6, 2, 3\)"),
    "gate width": (call(log_gate=zeros(2, 6, 2, 2)), "or 1 in place of any of its sizes"),
    "gate above 0": (call(log_gate=zeros(1, 1, 1, 1) + 0.5), "at most 0 and not NaN"),
    "gate NaN": (call(log_gate=zeros(1, 1, 1, 1) + np.nan), "log_gate must be at most 0"),
    "value gate": (call(log_value_gate=zeros(2, 6, 2, 3)), "log_value_gate must have shape"),
    "state": (
        call(initial_state=zeros(2, 4, 3, 5)),
        r"initial_state must have shape \(\*B, G, K, V\) = \(2, 2, 3, 5\), got \(2, 4, 3, 5\)",
    ),
    "segments shape": (
        call(segment_ids=zeros(6, dtype="int32")),
        r"segment_ids must have shape \(\*B, T\) = \(2, 6\)",
    ),
    "segments decrease": (
        call(segment_ids=np.array([[0, 0, 1, 1, 0, 0]] * 2)),
        "segment_ids must not decrease",
    ),
    "segments of 64 bits": (
        call(segment_ids=np.array([[0, 2**40] * 3] * 2, np.int64).cumsum(1)),
        f"segment_ids must fit int32, got 0 to {3 * 2**40}",
    ),
    "ends with a batch": (call(cu_seqlens=np.array([0, 6])), r"got batch axes \(2,\)"),
    "chunk size": (call(chunk_size=48), "chunk_size must be a power of two, got 48"),
    "chunk size 0": (call(chunk_size=0), "chunk_size must be at least 1"),
    "scale": (call(scale=float("inf")), "scale must be finite"),
    "precision": (call(precision="exact"), "precision must be"),
    "implementation": (call(implementation="fast"), "unknown implementation 'fast'"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_bad_values_are_refused(case, rng):
    run, message = SHAPES[case]
    with pytest.raises(ValueError, match=message):
        run(rng)


DTYPES = {
    "integers": (call(q=zeros(2, 6, 4, 3, dtype="int32")), "q must be real floating point"),
    "complex": (call(v=zeros(2, 6, 2, 5, dtype="complex64")), "v must be real floating point"),
    "8 bits": (
        call(q=jnp.zeros((2, 6, 4, 3), "float8_e4m3fn")),
        "q must have at least 16 bits, got float8_e4m3fn",
    ),
    "mixed": (call(k=jnp.zeros((2, 6, 2, 3), "bfloat16")), "k must have the dtype of q, float32"),
    "gate": (call(log_gate=zeros(2, 6, 2, 3, dtype="int32")), "log_gate must be real floating"),
    "state": (
        call(initial_state=jnp.zeros((2, 2, 3, 5), "bfloat16")),
        "initial_state must be float32, got bfloat16",
    ),
    "segments": (call(segment_ids=zeros(2, 6)), "segment_ids must hold integers, got float32"),
}


@pytest.mark.parametrize("case", DTYPES)
def test_bad_dtypes_are_refused(case, rng):
    run, message = DTYPES[case]
    with pytest.raises(TypeError, match=message):
        run(rng)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([0], r"shape \(S \+ 1,\) with S >= 1, got \(1,\)"),
        ([1, 6], r"must start at 0, .*got \[1, 6\]"),
        ([0, 4, 3, 6], "not decrease"),
        ([0, 7], "end at T = 6 or before"),
    ],
)
def test_bad_ends_of_sequences_are_refused(ends, message, rng):
    arrays = inputs(rng, (1,), 6, 2, 1, 3, 5)
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(*arrays, cu_seqlens=np.array(ends))


def test_states_of_packed_sequences_are_one_for_each(rng):
    arrays = inputs(rng, (1,), 6, 2, 1, 3, 5)
    with pytest.raises(ValueError, match=r"\(S, G, K, V\) = \(2, 1, 3, 5\), got \(1, 1, 3, 5\)"):
        gated_linear_attention(
            *arrays, cu_seqlens=np.array([0, 2, 6]), initial_state=state(rng, 1, 1, 3, 5)
        )
    with pytest.raises(ValueError, match="must not be given both"):
        gated_linear_attention(
            *arrays, cu_seqlens=np.array([0, 6]), segment_ids=np.zeros((1, 6), np.int32)
        )


def test_known_values_are_seen_under_a_trace(rng):
    """Arrays that a traced function closes over are no tracers."""
    q, k, v, gate = inputs(rng, (1,), 6, 2, 1, 3, 5)
    for kind in (np.asarray, jnp.asarray):
        known, bad, ids = kind(gate), kind(-gate), kind(np.array([[0, 0, 1, 1, 1, 1]]))
        jax.eval_shape(
            lambda q, g=known, i=ids: gated_linear_attention(q, k, v, g, segment_ids=i), q
        )
        with pytest.raises(ValueError, match="log_gate must be at most 0"):
            jax.eval_shape(lambda q, bad=bad: gated_linear_attention(q, k, v, bad), q)
        with pytest.raises(ValueError, match="segment_ids must not decrease"):
            jax.eval_shape(lambda q, i=-ids: gated_linear_attention(q, k, v, segment_ids=i), q)


def test_traced_values_are_not_seen_but_shapes_are(rng):
    arrays = inputs(rng, (1,), 6, 2, 1, 3, 5)
    assert jax.eval_shape(gated_linear_attention, *arrays[:3], -arrays[3]).shape == (1, 6, 2, 5)
    with pytest.raises(ValueError, match="log_gate must have shape"):
        jax.eval_shape(gated_linear_attention, *arrays[:3], arrays[3][0])


@pytest.mark.parametrize("ends", [[0, 9, 2, 40], [5, 3, -4, 1]])
def test_traced_ends_that_do_not_fit_give_finite_outputs(ends, rng):
    arrays = inputs(rng, (1,), 6, 2, 1, 3, 5)

    @jax.jit
    def run(ends):
        return gated_linear_attention(*arrays, cu_seqlens=ends, output_final_state=True)

    assert all(np.isfinite(x).all() for x in run(jnp.array(ends)))


def test_bad_steps_are_refused(rng):
    q, k, v, gate = (x[:, 0] for x in inputs(rng, (2,), 1, 4, 2, 3, 5))
    memory = state(rng, 2, 2, 3, 5)
    with pytest.raises(
        ValueError, match=r"state must have shape \(\*B, G, K, V\) = \(2, 2, 3, 5\)"
    ):
        gated_linear_attention_step(q, k, v, gate, memory[:1])
    with pytest.raises(TypeError, match="state must be float32, got float16"):
        gated_linear_attention_step(q, k, v, gate, memory.astype(np.float16))
    with pytest.raises(ValueError, match=r"k must have shape \(\*B, G, K\) = \(2, G, 3\)"):
        gated_linear_attention_step(q, k[:1], v, gate, memory)
    with pytest.raises(ValueError, match="log_gate must be at most 0"):
        gated_linear_attention_step(q, k, v, -gate, memory)


def test_bad_decodes_are_refused(rng):
    q, k, v, gate = (x[:, 0] for x in inputs(rng, (2,), 1, 4, 2, 3, 5))
    memory, output_gate, scale = state(rng, 2, 2, 3, 5), state(rng, 2, 4, 5), state(rng, 5)

    def decode(**changes):
        options: dict[str, Any] = {"output_gate": output_gate, "norm_scale": scale}
        options |= {"gate_logits": gate} | changes
        return gated_linear_attention_decode(q, k, v, state=memory, **options)

    assert decode(gate_logits=-gate)[0].shape == (2, 4, 5)
    with pytest.raises(ValueError, match=r"gate_logits must have shape \(2, 2, 3\)"):
        decode(gate_logits=gate[..., :1])
    with pytest.raises(ValueError, match=r"output_gate must have shape \(2, 4, 5\)"):
        decode(output_gate=output_gate[:, :2])
    with pytest.raises(ValueError, match=r"norm_scale must have shape \(5,\)"):
        decode(norm_scale=scale[:4])
    with pytest.raises(TypeError, match="output_gate must have the dtype of q, float32, got"):
        decode(output_gate=output_gate.astype(np.float16))
    with pytest.raises(TypeError, match="gate_logits must be real floating point"):
        decode(gate_logits=gate.astype(int))
    with pytest.raises(ValueError, match="gate_logit_normalizer must be above 0"):
        decode(gate_logit_normalizer=0)
    with pytest.raises(ValueError, match="norm_epsilon must be at least 0, got -1"):
        decode(norm_epsilon=-1.0)


def test_bad_convolutions_are_refused():
    x, kernel = zeros(2, 6, 3), zeros(4, 3)
    with pytest.raises(ValueError, match=r"kernel must have shape \(W, 3\)"):
        short_convolution(x, zeros(4, 2))
    with pytest.raises(ValueError, match="W >= 1"):
        short_convolution(x, zeros(0, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(\*B, T, D\)"):
        short_convolution(x[0, 0], kernel)
    with pytest.raises(ValueError, match=r"history must have shape \(2, 3, 3\)"):
        short_convolution(x, kernel, history=x)
    with pytest.raises(TypeError, match="kernel must have the dtype of x"):
        short_convolution(x, kernel.astype(np.float16))

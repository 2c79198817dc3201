"""gated_linear_attention over segments, packed sequences, and pieces that pass the state on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.gla import gated_linear_attention
from structlayers.testing import assert_close, assert_gradients_match
from tests.gla.cases import IMPLEMENTATIONS, attention, inputs, recurrence, state


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_segments_are_sequences(reverse, implementation, rng):
    """Segments across chunk borders; the first goes on from the initial state, the last ends."""
    q, k, v, gate = inputs(rng, (2,), 29, 2, 2, 6, 4, "spiky")
    start = state(rng, 2, 2, 6, 4)
    ends = [[3, 17, 18], [1, 8, 24]]
    ids = np.stack([np.searchsorted(row, np.arange(29), side="right") for row in ends])
    run = attention(implementation, chunk_size=8, segment_ids=5 * ids, reverse=reverse)
    out, final = run(q, k, v, gate, start)
    for b in range(2):
        pieces = np.split(np.arange(29), ends[b])
        pieces = [p[::-1] for p in pieces[::-1]] if reverse else pieces
        memory = start[b]
        for i, piece in enumerate(pieces):
            memory = start[b] if i == 0 else np.zeros_like(start[b])
            wanted, memory = recurrence(
                q[b][piece], k[b][piece], v[b][piece], gate[b][piece], np.zeros(1), memory, 6**-0.5
            )
            assert_close("outputs", out[b][piece], wanted, 5e-7)
        assert_close("final", final[b], memory, 5e-7)


def test_segments_without_gates(rng):
    q, k, v, _ = inputs(rng, (), 20, 1, 1, 4, 4)
    ids = np.repeat([0, 1], [9, 11])
    out, final = attention("xla", chunk_size=4, segment_ids=ids)(q, k, v)
    again, last = attention("xla", chunk_size=4)(q[9:], k[9:], v[9:])
    assert_close("second segment", (out[9:], final), (again, last), 5e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_segments_without_gates_in_float64(implementation, rng):
    q, k, v, _ = inputs(rng, (), 20, 1, 1, 4, 4)
    ids = np.repeat([0, 1], [9, 11])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        wide = [jnp.asarray(array, jnp.float64) for array in (q, k, v)]
        out, _ = attention(implementation, chunk_size=4, segment_ids=ids)(*wide)
        again, _ = attention(implementation, chunk_size=4)(*(array[9:] for array in wide))
        assert out.dtype == jnp.float64
        assert_close("second segment", out[9:], again, 1e-14)


LAYOUTS = {"rows": [0, 5, 5, 16, 29], "one": [0, 29], "padded": [0, 0, 7, 20, 20], "empty": [0, 0]}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize(
    ("implementation", "reverse"), [("xla", False), ("xla", True), ("reference", True)]
)
def test_packed_sequences_are_those_on_their_own(layout, implementation, reverse, rng):
    q, k, v, gate = inputs(rng, (1,), 29, 4, 2, 6, 4, "mixed")
    count = len(layout) - 1
    start = state(rng, count, 2, 6, 4)

    @jax.jit
    def run(ends, *arrays):
        return attention(implementation, chunk_size=8, cu_seqlens=ends, reverse=reverse)(*arrays)

    out, final = run(jnp.array(layout), q, k, v, gate, start)
    assert out.shape == (1, 29, 4, 4)
    single = attention("reference", reverse=reverse)
    for s in range(count):
        cut = slice(layout[s], layout[s + 1])
        wanted, last = single(*(x[0, cut] for x in (q, k, v, gate)), start[s])
        assert_close("outputs", out[0, cut], wanted, 5e-7)
        assert_close("state", final[s], last, 5e-7)
    assert not np.any(out[0, layout[-1] :])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_without_states_are_set_apart(layout, reverse, rng):
    """As by "parallel", which knows no packing; kernels do the same."""
    arrays = inputs(rng, (1,), 29, 4, 2, 6, 4, "mixed")

    def run(implementation):
        def call(ends, *arrays):
            return gated_linear_attention(
                *arrays, cu_seqlens=ends, reverse=reverse, implementation=implementation
            )

        return functools.partial(jax.jit(call), jnp.array(layout))

    assert_gradients_match(run("parallel"), run("reference"), arrays, 1e-6, value_bound=5e-7)
    out = run("parallel")(*arrays)
    assert np.any(out[0, : layout[-1]]) == (layout[-1] > 0)
    assert not np.any(out[0, layout[-1] :])


def test_packed_gradients(rng):
    arrays = (*inputs(rng, (), 21, 2, 1, 4, 4, "spiky"), state(rng, 3, 1, 4, 4))
    options = {"cu_seqlens": np.array([0, 9, 9, 19]), "chunk_size": 4}
    assert_gradients_match(
        attention("xla", **options), attention("reference", **options), arrays, 1e-6
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_pieces_of_a_sequence_pass_the_state_on(reverse, rng):
    arrays = inputs(rng, (2,), 50, 2, 1, 4, 6)
    run = attention("xla", chunk_size=16, reverse=reverse)
    whole, last = run(*arrays)
    order = (slice(0, 23), slice(23, 50))
    memory, parts = np.zeros((2, 1, 4, 6), np.float32), {}
    for cut in reversed(order) if reverse else order:
        parts[cut.start], memory = run(*(x[:, cut] for x in arrays), memory)
    assert_close("outputs", np.concatenate([parts[0], parts[23]], 1), whole, 5e-7)
    assert_close("state", memory, last, 5e-7)

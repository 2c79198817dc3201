"""gated_linear_attention: values, gradients, extremes, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from structlayers.gla import gated_linear_attention
from structlayers.gla.ops.attention import dispatcher
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
    error_ratio,
)
from tests.gla.cases import IMPLEMENTATIONS, attention, inputs, log_gates, recurrence, state


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("time", [1, 37])
@pytest.mark.parametrize("form", ["vector", "scalar", "constant", "none", "value", "both"])
def test_values_equal_the_definition(form, time, implementation, rng):
    heads, groups, key, value = 4, 2, 5, 7
    q, k, v, gate = inputs(rng, (2,), time, heads, groups, key, value, "spiky")
    value_gate = log_gates(rng, v.shape, "start")
    gate = {
        "scalar": gate[..., :1],
        "constant": gate[:1, :1, :, :1],
        "none": None,
        "value": gate[..., :1],
    }.get(form, gate)
    value_gate = value_gate if form in ("value", "both") else None
    start = state(rng, 2, groups, key, value)
    run = attention(implementation, chunk_size=8, scale=0.3)
    out, final = run(q, k, v, gate, start, value_gate)
    gate, value_gate = (np.zeros(1) if x is None else x for x in (gate, value_gate))
    gate = np.broadcast_to(gate, k.shape)
    value_gate = np.broadcast_to(value_gate, v.shape)
    for b in range(2):
        wanted = recurrence(q[b], k[b], v[b], gate[b], value_gate[b], start[b], 0.3)
        assert_close("values", (out[b], final[b]), wanted, 5e-7)


@pytest.mark.parametrize("channels", [1, 64])
@pytest.mark.parametrize("constant", [None, "k", "v", "initial_state"])
def test_constants_in_a_single_chunk(constant, channels, rng):
    """Products with what the compiler knows, and sums with them, are written in full."""
    q, k, v, gate = inputs(rng, (1,), 64, 1, 1, 64, 64)
    arrays = {"q": q, "k": k, "v": v, "log_gate": gate[..., :channels]}
    known = {}
    if constant is not None:
        shape = arrays.pop(constant, np.zeros((1, 1, 64, 64))).shape
        known = {constant: np.full(shape, constant != "initial_state", np.float32)}

    @jax.jit
    def run(arrays):
        constants = {name: jnp.full(x.shape, x.flat[0]) for name, x in known.items()}
        return attention("xla")(**arrays, **constants)

    program = run.lower(arrays).compile()
    # memory that is not written shows only where something else was before
    poison = [np.full((size, 64), np.nan, np.float32) for size in 40 * [32, 64, 128]]
    del poison
    found = program(arrays)
    wanted = attention("reference")(**arrays, **known)
    assert_close("values", found, wanted, 1e-6)


KINDS = ("0", "-1e-6", "-0.05", "-5", "-50", "start", "strong", "spiky", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_the_float64_recurrence(kind, rng):
    """No gate, however weak or strong, costs digits: of outputs, states or any gradient."""
    arrays = (*inputs(rng, (2,), 53, 2, 1, 8, 12, kind), state(rng, 2, 1, 8, 12))
    assert_gradients_match(
        attention("xla", chunk_size=8), attention("reference"), arrays, 1e-6, value_bound=5e-7
    )


def test_gates_below_the_range_of_float32(rng):
    """exp(-200) is 0 in float32: so are gradients of gates, and nothing else changes."""
    q, k, v, gate = inputs(rng, (1,), 40, 1, 1, 8, 8, "-200")
    gate[:, 7] = -np.inf
    arrays = (q, k, v, gate, state(rng, 1, 1, 8, 8))
    run = attention("xla", chunk_size=16)
    assert_gradients_match(run, attention("reference"), arrays, 1e-6, argnums=(0, 1, 2), scale=1.0)
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(run(*x)[0]), (3, 4)))(*arrays)
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("kind", ["-50", "start", "mixed"])
def test_gradients_of_a_gate_of_one_channel(kind, rng):
    """Scalar gates weigh scores, not keys; with resets between segments."""
    q, k, v, gate = inputs(rng, (2,), 27, 4, 2, 6, 8, kind)
    arrays = (q, k, v, gate[..., :1], state(rng, 2, 2, 6, 8))
    options = {"segment_ids": np.repeat([[0, 1]], [6, 21], axis=1).repeat(2, 0), "chunk_size": 8}
    assert_gradients_match(
        attention("xla", **options),
        attention("reference", **options),
        arrays,
        1e-6,
        value_bound=5e-7,
    )


def test_both_gates_have_gradients(rng):
    arrays = (*inputs(rng, (2,), 21, 4, 2, 6, 8, "mixed"), state(rng, 2, 2, 6, 8))
    arrays = (*arrays, log_gates(rng, arrays[2].shape, "spiky"))
    assert_gradients_match(
        attention("xla", chunk_size=8), attention("reference"), arrays, 1e-6, value_bound=5e-7
    )


@pytest.mark.parametrize("kind", ["start", "mixed"])
def test_bfloat16_bounds(kind, rng):
    """Acceptance: outputs 4e-3, states 3e-3, gradients 5e-3, those of gates among them."""
    arrays = (*inputs(rng, (1,), 90, 4, 2, 32, 48, kind, "bfloat16"), state(rng, 1, 2, 32, 48))
    run = attention("xla", chunk_size=32)
    out, final = run(*arrays)
    assert (out.dtype, final.dtype) == (jnp.bfloat16, jnp.float32)
    with jax.enable_x64(True):
        exact = np.asarray(attention("reference")(*(np.asarray(x, np.float64) for x in arrays))[1])
    assert_close("states", final, exact, 3e-3)
    assert_gradients_match(run, attention("reference"), arrays, 5e-3, value_bound=4e-3)


def test_float16_sums_do_not_overflow():
    """Ungated states of 2000 tokens of size 8 reach 128000, beyond float16."""
    ones = np.full((2000, 1, 1), 8, np.float16)
    out, final = attention("xla")(ones / 64, ones, ones)
    assert final.item() == 128000
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out[-1], 16000, rtol=1e-3)


@pytest.mark.parametrize(
    ("prefix", "channels", "dtype"),
    [(128, 16, "float32"), (149, 16, "bfloat16"), (77, 1, "float32")],
)
def test_the_future_changes_no_bit_of_the_past(prefix, channels, dtype, rng):
    """Outputs of a prefix, and gradients of a loss on it: other tokens, stronger gates, longer."""
    q, k, v, gate = inputs(rng, (1,), 300, 4, 2, 16, 24, "start", dtype)
    arrays = (q, k, v, gate[..., :channels])
    weights = rng.standard_normal((1, 300, 4, 24)).astype(np.float32)
    weights[:, prefix:] = 0

    @jax.jit
    def run(arrays, weights):
        def loss(arrays):
            out = gated_linear_attention(*arrays)
            return jnp.sum(out.astype(jnp.float32) * weights), out

        gradients, out = jax.grad(loss, has_aux=True)(arrays)
        return out, *gradients

    changed = tuple(np.concatenate([x[:, :prefix], -50 * abs(x[:, prefix:])], 1) for x in arrays)
    wanted = [x[:, :prefix] for x in run(arrays, weights)]
    for ours, theirs in zip(run(changed, weights), wanted, strict=True):
        np.testing.assert_array_equal(ours[:, :prefix], theirs)
    shorter = run(tuple(x[:, :prefix] for x in arrays), weights[:, :prefix])
    np.testing.assert_array_equal(shorter[0], wanted[0])
    # XLA may sum over channels in another order where shapes differ
    bound = 1e-6 if dtype == "float32" else 1e-3
    assert_close("gradients", shorter[1:], tuple(wanted[1:]), bound)


def test_a_batch_changes_no_bit_of_its_entries_and_runs_repeat(rng):
    arrays = inputs(rng, (3,), 130, 2, 2, 16, 16)
    run = jax.jit(gated_linear_attention)
    out = run(*arrays)
    np.testing.assert_array_equal(run(*arrays), out)
    np.testing.assert_array_equal(run(*(x[::-1] for x in arrays))[::-1], out)


def test_chunk_sizes_agree(rng):
    arrays = (*inputs(rng, (1,), 45, 2, 1, 4, 6, "mixed"), state(rng, 1, 1, 4, 6))
    wanted = attention("reference")(*arrays)
    for size in (1, 2, 64, 1024):
        assert_close(f"chunks of {size}", attention("xla", chunk_size=size)(*arrays), wanted, 1e-6)


def test_transformations_agree(rng):
    arrays = [jnp.asarray(x) for x in inputs(rng, (2, 2), 11, 2, 1, 4, 6)]
    run = jax.jit(functools.partial(gated_linear_attention, chunk_size=4))
    out = run(*arrays)
    assert out.shape == (2, 2, 11, 2, 6)
    assert_close("vmap", jax.vmap(jax.vmap(run))(*arrays), out, 1e-6)
    assert_close("eager", gated_linear_attention(*arrays, chunk_size=4), out, 1e-6)

    def body(carry, _):
        return jax.checkpoint(run)(carry, *arrays[1:])[..., :4], None

    last, _ = jax.jit(lambda q: jax.lax.scan(body, q, length=2))(arrays[0])
    twice = run(run(*arrays)[..., :4], *arrays[1:])[..., :4]
    assert_close("scan of remat", last, twice, 1e-6)


def test_forward_mode_and_second_derivatives(rng):
    arrays = inputs(rng, (1,), 9, 2, 1, 3, 4, "spiky")
    tangents = tuple(rng.standard_normal(x.shape).astype(np.float32) for x in arrays)

    def products(implementation):
        fn = functools.partial(gated_linear_attention, implementation=implementation, chunk_size=4)

        def norm(arrays):
            gradients = jax.grad(lambda a: jnp.sum(fn(*a) ** 2))(arrays)
            return sum(jnp.sum(x**2) for x in gradients)

        @jax.jit
        def both(arrays, tangents):
            _, tangent = jax.jvp(fn, arrays, tangents)
            second = jax.grad(norm)(arrays)
            _, over = jax.jvp(jax.grad(lambda a: jnp.sum(fn(*a) ** 2)), (arrays,), (tangents,))
            return tangent, second, over

        return both

    found = products("xla")(arrays, tangents)
    with jax.enable_x64(True):
        wide = [tuple(np.asarray(x, np.float64) for x in each) for each in (arrays, tangents)]
        wanted = jax.tree.map(np.asarray, products("reference")(*wide))
    assert_close("jvp, grad of grad, jvp of grad", found, wanted, 2e-6)


def test_nothing_is_kept_but_the_arguments(rng, capsys):
    arrays = [jnp.asarray(x) for x in inputs(rng, (1,), 100, 2, 1, 8, 8)]
    print_saved_residuals(gated_linear_attention, *arrays)
    kept = capsys.readouterr().out.splitlines()
    assert len(kept) == len(arrays)
    assert all("from the argument" in line for line in kept)


def test_a_scalar_gate_is_not_spread_over_keys(rng):
    q, k, v, gate = inputs(rng, (1,), 64, 1, 1, 48, 8)
    shapes = jax.make_jaxpr(gated_linear_attention)(q, k, v, gate[..., :1])
    text = str(shapes)
    exponentials = [line for line in text.splitlines() if " exp " in line]
    assert exponentials
    assert not any("48]" in line for line in exponentials)


def test_keys_and_values_are_not_repeated(rng):
    q, k, v, gate = inputs(rng, (1,), 64, 6, 1, 16, 8)
    text = str(jax.make_jaxpr(gated_linear_attention)(q, k, v, gate))
    # exp of gates once a key head, states of one key head
    assert "f32[1,6,64,16]" not in text
    assert "f32[1,6,1,16,8]" not in text


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0,), (3, 0, 5)])
def test_empty_batches_and_sequences(shape, implementation, rng):
    arrays = inputs(rng, shape[:-1], shape[-1], 4, 2, 3, 5)
    start = state(rng, *shape[:-1], 2, 3, 5)
    out, final = attention(implementation)(*arrays, start)
    assert out.shape == (*shape, 4, 5)
    np.testing.assert_array_equal(final, start)
    _, zero = attention(implementation)(*arrays)
    assert not np.any(zero)


def test_batch_sharded_over_devices(rng):
    arrays = inputs(rng, (8,), 20, 2, 1, 4, 4)
    run = functools.partial(gated_linear_attention, chunk_size=8)
    assert_sharded_equals_single(run, arrays, (0,) * 4)


def test_the_choice_is_explained(rng):
    q, k, v, gate = inputs(rng, (1,), 8, 1, 1, 2, 2)
    choose = functools.partial(dispatcher.choose, q, k, v, gate, None, None, None, None)
    assert choose(scale=1.0).name == "xla"
    long = jax.ShapeDtypeStruct((1, 10**5, 1, 64), jnp.float32)
    with pytest.raises(NotImplementedError, match="'parallel' cannot serve: it would hold"):
        dispatcher.choose(long, long, long, *[None] * 5, implementation="parallel")
    with pytest.raises(NotImplementedError, match="no states of packed sequences"):
        attention("parallel", cu_seqlens=np.array([0, 8]))(q, k, v, gate)


@pytest.mark.parametrize(("key", "value"), [(128, 256), (256, 512)])
def test_head_sizes_of_the_papers_models(key, value, rng):
    arrays = (*inputs(rng, (1,), 13, 1, 1, key, value), state(rng, 1, 1, key, value))
    assert_gradients_match(
        attention("xla", chunk_size=8), attention("reference"), arrays, 1e-6, value_bound=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 63, 64, 1000, 2048])
@pytest.mark.parametrize(("key", "value"), [(64, 64), (128, 128), (128, 256), (256, 512)])
def test_acceptance_shapes(key, value, time, rng):
    """Outputs and states at the papers' sizes: 2e-6 in float32, 4e-3 and 3e-3 in bfloat16."""
    for dtype, bounds in (("float32", (2e-6, 2e-6)), ("bfloat16", (4e-3, 3e-3))):
        arrays = inputs(rng, (1,), time, 1, 1, key, value, "start", dtype)
        found = attention("xla")(*arrays)
        with jax.enable_x64(True):
            wide = [np.asarray(x, np.float64) for x in arrays]
            exact = jax.tree.map(np.asarray, attention("reference")(*wide))
        for name, ours, theirs, bound in zip("oS", found, exact, bounds, strict=True):
            assert_close(name, ours, theirs, bound)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_errors_do_not_grow_with_time(dtype, rng):
    """Acceptance: error at T = 32768 at most 1.25 times that at 2048."""
    arrays = inputs(rng, (1,), 32768, 1, 1, 64, 64, "start", dtype)
    errors = {}
    for time in (2048, 32768):
        cut = [x[:, :time] for x in arrays]
        out, final = attention("xla")(*cut)
        with jax.enable_x64(True):
            wide = [np.asarray(x, np.float64) for x in cut]
            exact = jax.tree.map(np.asarray, attention("reference")(*wide))
        errors[time] = error_ratio(out, exact[0])
        assert_close("state", final, exact[1], 2e-6 if dtype == "float32" else 3e-3)
    assert errors[2048] <= (2e-6 if dtype == "float32" else 4e-3)
    assert errors[32768] <= 1.25 * errors[2048]

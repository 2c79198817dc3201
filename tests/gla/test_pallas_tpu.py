"""The TPU kernels in the interpreter of TPUs, and through the compilers of five generations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from structlayers._core.pallas import interpret_tpu_kernels, tpu_races
from structlayers._core.precision import canonicalize_precision
from structlayers.gla import gated_linear_attention
from structlayers.gla.ops.attention import dispatcher
from structlayers.gla.pallas_tpu.apply import gated_linear_attention as apply
from structlayers.gla.pallas_tpu.memory import plan
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
)
from structlayers.testing.tpu import TpuCompiler, skip_without_compiler
from tests.gla.cases import attention, inputs, state

pytestmark = pytest.mark.pallas

kernel = functools.partial(attention, "pallas_tpu")
reference = functools.partial(attention, "reference")


@pytest.fixture(autouse=True)
def _interpreted(request):
    if {"compiler", "not_interpreted"} & set(request.fixturenames):
        yield
        return
    with interpret_tpu_kernels():
        yield
    assert not tpu_races()


@pytest.fixture
def not_interpreted():
    """For a test of what happens without the interpreter."""


IDS = np.repeat([[0, 1, 2]], [17, 1, 52], axis=1).repeat(2, 0)

# time, H, G, K, V, channels of the gate (0 is none), options
CASES = {
    "one token": (1, 1, 1, 4, 4, 4, {}),
    "whole chunks": (64, 1, 1, 8, 12, 8, {}),
    "a part of a chunk, shared keys": (53, 4, 2, 8, 130, 8, {}),
    "segments": (70, 2, 1, 8, 8, 8, {"segment_ids": IDS}),
    "one channel, shared keys": (53, 4, 2, 130, 8, 1, {"scale": 0.3}),
    "one channel, segments": (70, 1, 1, 8, 8, 1, {"segment_ids": IDS}),
    "no gate, segments": (70, 1, 1, 8, 8, 0, {"segment_ids": IDS}),
    "reverse": (37, 1, 1, 8, 8, 8, {"reverse": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, rng):
    time, heads, groups, key, value, channels, options = CASES[case]
    q, k, v, gate = inputs(rng, (2,), time, heads, groups, key, value, "spiky")
    start = state(rng, 2, groups, key, value)
    arrays = (q, k, v, gate[..., :channels], start)

    def run(make, gate):
        def call(q, k, v, given, start):
            return make(chunk_size=16, **options)(q, k, v, given if channels else gate, start)

        return call

    argnums = (0, 1, 2, 3, 4) if channels else (0, 1, 2, 4)
    nothing = np.zeros((1, 1, 1, 1))  # in float64
    assert_gradients_match(
        run(kernel, None), run(reference, nothing), arrays, 1e-6, argnums=argnums
    )


def packed(implementation):
    def run(*arrays):
        ends = jnp.array([0, 17, 17, 18, 60])
        return gated_linear_attention(
            *arrays, cu_seqlens=ends, chunk_size=16, implementation=implementation
        )

    return jax.jit(run)


def test_packed_sequences_without_states(rng):
    arrays = inputs(rng, (1,), 64, 2, 1, 8, 8, "spiky")
    assert_gradients_match(packed("pallas_tpu"), packed("reference"), arrays, 1e-6)
    with pytest.raises(NotImplementedError, match="no states of packed sequences"):
        kernel(cu_seqlens=np.array([0, 64]))(*arrays)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["0", "-1e-6", "-5", "-50", "strong"])
def test_no_gate_costs_digits(kind, rng):
    check_digits(kind, 8, rng)


@pytest.mark.parametrize("channels", [1, 8])
def test_a_mixture_of_gates_costs_no_digits(channels, rng):
    check_digits("mixed", channels, rng)


def check_digits(kind, channels, rng):
    q, k, v, gate = inputs(rng, (1,), 150, 1, 1, 8, 12, kind)
    gate[:, 0] = np.maximum(gate[:, 0], -5)  # or no gradient reaches the initial state
    arrays = (q, k, v, gate[..., :channels], state(rng, 1, 1, 8, 12))
    assert_gradients_match(kernel(), reference(), arrays, 2e-6, value_bound=1e-6)


@pytest.mark.parametrize("channels", [1, 8])
def test_gates_below_the_range_of_float32(channels, rng):
    """exp(-200) is 0 in float32, and so are gradients of gates; -inf is a reset."""
    q, k, v, gate = inputs(rng, (1,), 40, 1, 1, 8, 8, "-200")
    gate[:, 7] = -np.inf
    arrays = (q, k, v, gate[..., :channels], state(rng, 1, 1, 8, 8))
    run = kernel(chunk_size=16)
    assert_gradients_match(run, reference(), arrays, 1e-6, argnums=(0, 1, 2), scale=1.0)
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(run(*x)[0]), (3, 4)))(*arrays)
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["start", "mixed"])
@pytest.mark.parametrize(("key", "value"), [(64, 64), (128, 128), (128, 256)])
@pytest.mark.parametrize("time", [1, 63, 300])
def test_bfloat16_bounds(time, key, value, kind, rng):
    """Acceptance: outputs and states 4e-3 and 3e-3, gradients 5e-3, those of gates among them."""
    arrays = inputs(rng, (1,), time, 1, 1, key, value, kind, "bfloat16")
    arrays = (*arrays, state(rng, 1, 1, key, value))
    assert_gradients_match(kernel(), reference(), arrays, 5e-3, value_bound=4e-3)


def test_bfloat16(rng):
    arrays = inputs(rng, (1,), 150, 2, 1, 64, 64, "spiky", "bfloat16")
    arrays = (*arrays, state(rng, 1, 1, 64, 64))
    assert_gradients_match(kernel(), reference(), arrays, 5e-3, value_bound=4e-3)


@pytest.mark.parametrize("channels", [1, 8])
def test_prefixes_are_equal_bit_by_bit(channels, rng):
    """Outputs, and gradients of a loss on a prefix, whatever follows it; and in a second run."""
    time, cut = 60, 21
    first = inputs(rng, (1,), time, 2, 1, 8, 8, "spiky")
    other = inputs(rng, (1,), time, 2, 1, 8, 8, "mixed")
    after = np.arange(time)[None, :, None, None] >= cut
    second = tuple(np.where(after, b, a) for a, b in zip(first, other, strict=True))

    @jax.jit
    def run(q, k, v, gate):
        def prefix(*arrays):
            return gated_linear_attention(*arrays, implementation="pallas_tpu", chunk_size=16)[
                :, :cut
            ]

        out, pull = jax.vjp(prefix, q, k, v, gate[..., :channels])
        return out, *(x[:, :cut] for x in pull(jnp.sin(out)))

    found = run(*first)
    for same in (run(*second), run(*first)):
        for a, b in zip(found, same, strict=True):
            np.testing.assert_array_equal(a, b)


def test_residuals_are_the_arguments_and_states(rng):
    q, k, v, gate = inputs(rng, (1,), 600, 1, 1, 128, 128)
    start = state(rng, 1, 1, 128, 128)

    def run(q, k, v, gate, start):
        options = {"scale": 1.0, "chunk_size": 64, "precision": canonicalize_precision(None)}
        return apply(q, k, v, gate, None, start, None, None, **options)

    _, pull = jax.vjp(run, *map(jnp.asarray, (q, k, v, gate, start)))
    kept = sorted(x.size for x in jax.tree.leaves(pull) if np.size(x) > 1)
    steps = plan(600, 1, 128, 128, 4, 64, 16 << 20).steps
    assert kept == sorted([*(x.size for x in (q, k, v, gate, start)), steps * start.size])


def test_vmap_agrees(rng):
    arrays = [inputs(rng, (), 20, 2, 1, 8, 8) for _ in range(3)]
    q, k, v, gate = (np.stack(x) for x in zip(*arrays, strict=True))
    start = state(rng, 1, 8, 8)

    def loss(q, k, v, gate, start):
        out, final = kernel(chunk_size=16)(q, k, v, gate, start)
        return jnp.sum(out**2) + jnp.sum(final**2)

    run = jax.jit(jax.value_and_grad(loss, (0, 3, 4)))
    with interpret_tpu_kernels(plain=True):
        each = jax.tree.map(lambda *x: jnp.stack(x), *(run(*a, start) for a in arrays))
        found = jax.vmap(run, (0, 0, 0, 0, None))(q, k, v, gate, start)
    assert_close("vmap", found, each, 1e-6)


@pytest.mark.slow
def test_scan_of_remat_and_second_derivatives(rng):
    """In the plain interpreter: JAX does not differentiate callbacks under remat."""
    q, k, v, gate = inputs(rng, (2,), 20, 1, 1, 8, 8)
    start = state(rng, 2, 1, 8, 8)

    def loss(q, k, v, gate, start, implementation):
        run = attention(implementation, chunk_size=16)

        def step(carry, _):
            return jax.checkpoint(run)(q, k, v, gate, carry)[::-1]

        return jnp.sum(jax.lax.scan(step, start, None, length=2)[1] ** 2)

    def norm(*args):
        return sum(jnp.sum(x**2) for x in jax.grad(loss, (0, 3))(*args))

    first = jax.jit(jax.value_and_grad(loss, (0, 3, 4)), static_argnums=5)
    second = jax.jit(jax.grad(norm, (1, 3)), static_argnums=5)
    args = (q, k, v, gate, start)
    with interpret_tpu_kernels(plain=True):
        found = first(*args, "pallas_tpu"), second(*args, "pallas_tpu")
    assert_close("remat", found, (first(*args, "xla"), second(*args, "xla")), 3e-6)


@pytest.mark.parametrize("options", [{}, {"segment_ids": np.repeat([[0, 1]], 10, axis=1)}])
def test_sharded_batches(options, rng):
    arrays = inputs(rng, (8,), 20, 1, 1, 8, 8)
    options = {name: np.repeat(x, 8, axis=0) for name, x in options.items()}
    run = functools.partial(
        gated_linear_attention, implementation="pallas_tpu", chunk_size=16, **options
    )
    with interpret_tpu_kernels(plain=True):
        assert_sharded_equals_single(run, arrays, (0, 0, 0, 0), bound=2e-6)


def struct(*shape, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(shape, dtype)


def choose(q=None, implementation="pallas_tpu", platform="tpu", rest=(None,) * 5, size=64):
    q = struct(2, 256, 4, size) if q is None else q
    return dispatcher.choose(
        q, q, q, *rest, implementation=implementation, platform=platform, chunk_size=64
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"q": struct(2, 256, 4, 64, dtype="float16")}, "not float16"),
        ({"rest": (None, struct(2, 256, 4, 64), None, None, None)}, "no log_value_gate"),
        ({"rest": (None, None, None, None, object())}, "no states of packed"),
        ({"size": 4096}, "MiB of VMEM"),
        ({"q": struct(0, 256, 4, 64)}, "nothing to do"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(options, reason):
    with pytest.raises(NotImplementedError, match=reason):
        choose(**options)


def test_other_platforms_are_refused(not_interpreted):
    with pytest.raises(NotImplementedError, match="this is gpu"):
        choose(platform="gpu")


def test_the_choice_on_tpu(monkeypatch):
    assert choose(implementation=None).name == "xla"  # among devices of unknown sharding
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        assert choose(implementation=None).name == "pallas_tpu"
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "compiled estimates" in choose(implementation=None).why
    assert choose(struct(2, 32, 4, 64), None).name == "xla"
    assert "VMEM" in choose(implementation=None, size=4096).rejected["pallas_tpu"]


def test_steps_fit():
    for vmem in (16 << 20, 128 << 20):
        layout = plan(2048, 1, 256, 512, 2, 64, vmem)
        assert layout.chunk == 128
        assert layout.tokens * layout.steps >= 2048
    assert plan(5, 1, 64, 64, 2, 8, vmem).tokens == 16
    assert plan(300, 1, 64, 64, 4, 16, vmem).chunk == 16


def both(*arrays):
    """Forward and backward, for the compiler."""
    run = functools.partial(gated_linear_attention, implementation="pallas_tpu")
    out, pull = jax.vjp(run, *arrays)
    return pull(out)


@pytest.fixture(scope="module")
def compiler():
    skip_without_compiler()
    with TpuCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize(("channels", "dtype"), [(64, "bfloat16"), (1, "float32")])
def test_every_generation_compiles_both_directions(channels, dtype, compiler):
    shape = (1, 300, 2, 64)
    tokens = struct(*shape, dtype=dtype)
    gate = struct(*shape[:-1], channels, dtype="float32")
    for row in compiler.compile(f"{__file__}:both", tokens, tokens, tokens, gate):
        assert row.compiled, f"{row.target}: {row.error}"
        assert len(row.kernels) == 2
        assert row.mxu_share is not None
        assert row.mxu_share > 0

"""The decode kernel for Hopper GPUs: simulated on NumPy, lowered for CUDA, run where a GPU is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.gla import gated_linear_attention_decode, gated_linear_attention_step
from structlayers.gla.ops.step import decode_dispatcher, states_in_place
from structlayers.gla.pallas_gpu.step_plan import Plan, tile_columns
from structlayers.gla.pallas_gpu.step_program import program
from structlayers.testing import assert_close
from structlayers.testing.simt import simulate
from tests.gla.cases import log_sigmoid

OUTPUT_BOUNDS = {"float32": 1e-6, "bfloat16": 3e-3}
TAU, EPSILON = 16.0, 1e-6

# N, G, R, K, V
SHAPES = {
    "one tile": (2, 1, 1, 32, 32),
    "340M": (2, 2, 1, 128, 256),
    "1.3B": (1, 1, 1, 256, 512),
    "shared state": (1, 2, 3, 64, 96),
    "four queries": (3, 1, 4, 128, 128),
    "wide": (1, 1, 2, 32, 1024),
}


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """q, k, v, gate logits, state, output gate and norm scale, signed."""
    batch, groups, queries, key, value = shape
    heads = groups * queries
    shapes = [(heads, key), (groups, key), (groups, value), (groups, key), (heads, value)]
    narrow = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    q, k, v, logits, gate = (rng.standard_normal((batch, *s)) for s in shapes)
    state = rng.standard_normal((batch, groups, key, value)).astype(np.float32)
    q, k, v, logits, gate = (x.astype(narrow) for x in (q, k, v, 4 * logits, gate))
    return q, k, v, logits, state, gate, rng.standard_normal(value).astype(np.float32)


def definition(q, k, v, log_gate, state, *, scale) -> tuple[np.ndarray, np.ndarray]:
    """One step in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    new = np.exp(log_gate)[..., None] * state + k[..., None] * v[..., None, :]
    grouped = q.reshape(*k.shape[:2], -1, k.shape[-1])
    out = scale * np.einsum("bgrk,bgkv->bgrv", grouped, new)
    return out.reshape(*q.shape[:2], -1), new


def decoded(q, k, v, logits, state, gate, norm_scale, *, scale, tau=TAU, epsilon=EPSILON):
    """With gate, norm and output gate, in float64."""
    log_gate = log_sigmoid(np.asarray(logits, np.float64)) / tau
    out, new = definition(q, k, v, log_gate, state, scale=scale)
    out = norm_scale * out / np.sqrt(np.mean(out**2, -1, keepdims=True) + epsilon)
    gate = np.asarray(gate, np.float64)
    return gate / (1 + np.exp(-gate)) * out, new


def simulated(arrays: tuple[np.ndarray, ...], plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    q, _, v, _, state, *_ = arrays
    inputs = [array.copy() for array in arrays]
    (out,) = simulate(
        program(plan),
        inputs,
        [jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype)],
        clusters=plan.clusters,
        cluster_size=plan.cluster_size,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
    )
    for one, other in zip(inputs, arrays, strict=True):
        assert one.shape == state.shape or np.array_equal(one, other)
    return out, inputs[4]


def plan_of(shape: tuple[int, ...], dtype: str, **fields: Any) -> Plan:
    batch, groups, queries, key, value = shape
    half = dtype == "bfloat16"
    plan = Plan(
        states=batch * groups,
        queries=queries,
        key=key,
        value=value,
        scale=key**-0.5,
        gate_normalizer=TAU,
        norm_epsilon=EPSILON,
        half=half,
        half_gates=half,
        columns=tile_columns(queries, key, value),
    )
    return dataclasses.replace(plan, **fields)


@pytest.mark.parametrize("dtype", OUTPUT_BOUNDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_simulated_decode_is_the_definition(shape, dtype, rng):
    arrays = draw(rng, shape, dtype)
    out, new = simulated(arrays, plan_of(shape, dtype))
    wanted, state = decoded(*arrays, scale=shape[3] ** -0.5)
    assert_close("outputs", out, wanted, OUTPUT_BOUNDS[dtype])
    assert_close("state", new, state, 2e-7)


@pytest.mark.parametrize("dtype", OUTPUT_BOUNDS)
def test_simulated_step_without_norm(dtype, rng):
    shape = SHAPES["340M"]
    q, k, v, logits, state, *_ = draw(rng, shape, dtype)
    log_gate = log_sigmoid(np.asarray(logits, np.float64)).astype(np.float32)
    log_gate[:, :, :3] = -np.inf
    log_gate[:, :, 3:6] = 0
    fields: dict[str, Any] = {
        "gate_normalizer": None,
        "norm_epsilon": None,
        "half_gates": False,
        "scale": -0.3,
    }
    out, new = simulated((q, k, v, log_gate, state), plan_of(shape, dtype, **fields))
    wanted, after = definition(q, k, v, log_gate, state, scale=-0.3)
    assert_close("outputs", out, wanted, OUTPUT_BOUNDS[dtype])
    assert_close("state", new, after, 2e-7)


@pytest.mark.parametrize(
    "fields",
    [{"columns": 128}, {"columns": 32}, {"threads": 256}, {"batch": 2}, {"batch": 16}],
    ids=str,
)
def test_other_plans_give_the_same(fields, rng):
    shape = SHAPES["340M"]
    arrays = draw(rng, shape, "float32")
    out, new = simulated(arrays, plan_of(shape, "float32", **fields))
    wanted, state = decoded(*arrays, scale=shape[3] ** -0.5)
    assert_close("outputs", out, wanted, 1e-6)
    assert_close("state", new, state, 2e-7)


def test_extreme_gates(rng):
    """Logits from -1000 to 1000: nothing overflows."""
    shape = SHAPES["one tile"]
    arrays = list(draw(rng, shape, "float32"))
    arrays[3] = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(2, 1, 32)
    for tau in (1.0, 16.0):
        out, new = simulated(tuple(arrays), plan_of(shape, "float32", gate_normalizer=tau))
        wanted, state = decoded(*arrays, scale=shape[3] ** -0.5, tau=tau)
        assert_close("outputs", out, wanted, 1e-6)
        assert_close("state", new, state, 2e-7)


def abstract(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> list:
    arrays = draw(rng, shape, dtype)
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def lowered(fn: Any, *args: Any) -> str:
    """The program for CUDA, the buffer of the state given away."""
    with assume_platform("gpu"):
        traced = jax.jit(fn, donate_argnums=4).trace(*args)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_one_launch_that_writes_the_state_in_place(shape, rng):
    """Also in a loop and under vmap."""

    def decode(*args):
        return gated_linear_attention_decode(*args, implementation="pallas_gpu")

    def loop(*args):
        def body(_, state):
            return decode(*args[:4], state, *args[5:])[1]

        return jax.lax.fori_loop(0, 3, body, args[4])

    args = abstract(shape, "bfloat16", rng)
    mapped = [jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in args[:6]]
    for text in (
        lowered(decode, *args),
        lowered(loop, *args),
        lowered(jax.vmap(decode, (0,) * 6 + (None,)), *mapped, args[6]),
    ):
        assert text.count("custom_call @mosaic_gpu") == 1
        assert "output_operand_alias<output_tuple_indices = [1], operand_index = 4" in text


def test_a_step_lowers_and_gradients_are_those_of_xla(rng):
    q, k, v, gate, state, *_ = abstract(SHAPES["340M"], "float32", rng)

    def step(*args):
        return gated_linear_attention_step(*args, implementation="pallas_gpu")

    assert lowered(step, q, k, v, gate, state).count("custom_call @mosaic_gpu") == 1

    def loss(*args):
        out, new = step(*args)
        return jnp.sum(jnp.sin(out)) + jnp.sum(new)

    lowered(jax.grad(loss, argnums=(0, 1, 2, 3, 4)), q, k, v, gate, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "it takes bfloat16 and float32, not float16"),
        ({"shape": (2, 1, 5, 32, 32)}, "up to 4 query heads for a key head, not 5"),
        ({"shape": (2, 1, 1, 32, 40)}, "not K, V = 32, 40"),
        ({"shape": (2, 1, 1, 24, 32)}, "not K, V = 24, 32"),
        ({"shape": (0, 1, 1, 32, 32)}, r"state is empty, of shape \(0, 1, 32, 32\)"),
        ({"shape": (2, 1, 3, 32, 1024)}, "not K, V = 32, 1024 and 3 query heads"),
        ({"platform": "cpu"}, "it is for Hopper GPUs, this is cpu"),
    ],
)
def test_what_it_cannot_serve(change, message, rng):
    shape = change.get("shape", SHAPES["one tile"])
    args = abstract(shape, change.get("dtype", "bfloat16"), rng)
    options = {"implementation": "pallas_gpu", "platform": change.get("platform", "gpu")}
    with pytest.raises(NotImplementedError, match=message):
        decode_dispatcher.choose(*args, **options)


def test_gates_it_does_not_know(rng):
    q, k, v, gate, state, *_ = draw(rng, SHAPES["one tile"], "float32")
    gate = -np.abs(gate)
    with assume_platform("gpu"):
        step = gated_linear_attention_step
        options = {"implementation": "pallas_gpu"}
        with pytest.raises(NotImplementedError, match="it knows no gates of V channels"):
            step(q, k, v, gate, state, log_value_gate=-np.abs(v), **options)
        for other in (None, gate[..., :1]):
            with pytest.raises(NotImplementedError, match="it takes log gates of K channels"):
                step(q, k, v, other, state, **options)


def test_none_takes_it_from_a_size_on_only_where_states_are_in_place(rng):
    large = abstract((1, 4, 1, 256, 512), "bfloat16", rng)  # 2 MiB of states
    small = abstract((1, 4, 1, 256, 448), "bfloat16", rng)
    assert decode_dispatcher.choose(*large, platform="gpu").name == "xla"
    with states_in_place():
        assert decode_dispatcher.choose(*large, platform="gpu").name == "pallas_gpu"
        assert decode_dispatcher.choose(*small, platform="gpu").name == "xla"
        assert decode_dispatcher.choose(*large, platform="cpu").name == "xla"
    assert decode_dispatcher.choose(*large, platform="gpu").name == "xla"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", OUTPUT_BOUNDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_on_a_gpu(shape, dtype, rng):
    arrays = draw(rng, shape, dtype)
    run = jax.jit(gated_linear_attention_decode, static_argnames="implementation")
    out, new = run(*map(jnp.asarray, arrays), implementation="pallas_gpu")
    wanted, state = decoded(*arrays, scale=shape[3] ** -0.5)
    assert_close("outputs", out, wanted, OUTPUT_BOUNDS[dtype])
    assert_close("state", new, state, 2e-7)

"""What every layer must do: transforms of JAX, state, sharding, names in profiles.

A family's `test_layers_battery.py` imports these tests and the fixture `x`, and defines the fixture
`make`: from `nnx.Rngs` to a layer of eight inputs and outputs.
"""

import copy
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


@pytest.fixture
def x(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(rng.standard_normal((8, 8)), jnp.float32)


@jax.jit
def apply(layer: nnx.Module, x: jax.Array) -> jax.Array:
    return layer(x)


def test_eager_equals_jit(make, x: jax.Array):
    layer = make(nnx.Rngs(0))
    eager = layer(x)
    assert eager.shape == x.shape
    assert eager.dtype == x.dtype
    np.testing.assert_allclose(apply(layer, x), eager, rtol=1e-5, atol=1e-6)


def test_empty_batch(make):
    assert make(nnx.Rngs(0))(jnp.zeros((0, 8))).shape == (0, 8)


def test_vmap_equals_batch(make, x: jax.Array):
    layer = make(nnx.Rngs(0))
    each = jax.vmap(layer)(x.reshape(4, 2, 8)).reshape(8, 8)
    np.testing.assert_allclose(each, apply(layer, x), rtol=1e-5, atol=1e-6)


def test_vmap_over_seeds(make, x: jax.Array):
    """An ensemble of layers, made and applied by vmap, equals its members one by one."""

    def member(key: jax.Array) -> jax.Array:
        return make(nnx.Rngs(key))(x)

    keys = jax.random.split(jax.random.key(7), 3)
    outputs = jax.jit(jax.vmap(member))(keys)
    single = jax.jit(member)
    for key, output in zip(keys, outputs, strict=True):
        np.testing.assert_allclose(output, single(key), rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs[0], outputs[1])


def test_training_step_lowers_the_loss(make, x: jax.Array):
    """`nnx.split` once, then `jax.jit` on the state: towards another layer of the same kind."""
    target = apply(make(nnx.Rngs(1)), x)
    graphdef, state = nnx.split(make(nnx.Rngs(0)))
    optimizer = optax.sgd(0.02)

    @jax.jit
    def step(state: nnx.State, memory: optax.OptState) -> tuple:
        def loss(state: nnx.State) -> jax.Array:
            return jnp.mean((nnx.merge(graphdef, state)(x) - target) ** 2)

        value, gradient = jax.value_and_grad(loss)(state)
        updates, memory = optimizer.update(gradient, memory, state)
        return optax.apply_updates(state, updates), memory, value, gradient

    memory, values = optimizer.init(state), []
    for _ in range(5):
        state, memory, value, gradient = step(state, memory)
        values.append(float(value))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert all(after < before for before, after in itertools.pairwise(values)), values


def test_state_is_parameters_only(make):
    """Nothing but trainable arrays: gradients and optimisers take the whole state as it is."""
    _, params, rest = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))


def test_no_second_trace_for_a_layer_made_again(make, x: jax.Array):
    traces = []

    @jax.jit
    def counted(layer: nnx.Module, x: jax.Array) -> jax.Array:
        traces.append(1)
        return layer(x)

    for seed in (0, 1):
        counted(make(nnx.Rngs(seed)), x)
    assert len(traces) == 1


def test_checkpoint_round_trip(make, x: jax.Array):
    """State to plain nested dictionaries of NumPy arrays, and into a layer of another seed."""
    layer = make(nnx.Rngs(0))
    saved = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer)))
    other = make(nnx.Rngs(1))
    before = other(x)
    state = nnx.state(other)
    nnx.replace_by_pure_dict(state, saved)
    nnx.update(other, state)
    np.testing.assert_array_equal(other(x), layer(x))
    assert not np.array_equal(before, layer(x))


def test_copies(make, x: jax.Array):
    layer = make(nnx.Rngs(0))
    for other in (copy.deepcopy(layer), nnx.clone(layer)):
        np.testing.assert_array_equal(other(x), layer(x))
        param = next(iter(jax.tree.leaves(nnx.state(other))))
        assert param is not None


def test_abstract_construction(make):
    layer = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    out = jax.eval_shape(lambda layer, x: layer(x), layer, jax.ShapeDtypeStruct((3, 8), "float32"))
    assert (out.shape, out.dtype) == ((3, 8), jnp.float32)


def test_named_scope_is_in_the_program(make, x: jax.Array):
    layer = make(nnx.Rngs(0))
    text = apply.lower(layer, x).compile().as_text()
    assert f"structlayers.{type(layer).__name__}" in (text or "")


def test_remat_and_scan(make, x: jax.Array):
    layer = make(nnx.Rngs(0))

    def three(x: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda x, _: (jnp.tanh(layer(x)), None))
        return jax.lax.scan(body, x, length=3)[0]

    expected = x
    for _ in range(3):
        expected = jnp.tanh(layer(expected))
    np.testing.assert_allclose(jax.jit(three)(x), expected, rtol=1e-5, atol=1e-6)


def test_batch_sharded_over_devices(make, x: jax.Array):
    """Automatic partitioning over the batch, values and gradients as on one device."""
    layer = make(nnx.Rngs(0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
    out = apply(layer, sharded)
    assert not out.sharding.is_fully_replicated
    np.testing.assert_allclose(out, apply(layer, x), rtol=1e-5, atol=1e-6)

    def loss(layer: nnx.Module, x: jax.Array) -> jax.Array:
        return jnp.sum(layer(x) ** 2)

    gradient = jax.jit(jax.grad(loss))
    for a, b in zip(
        *map(jax.tree.leaves, (gradient(layer, sharded), gradient(layer, x))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_out_sharding_on_explicit_axes(make, x: jax.Array):
    """As `nnx.Linear`'s argument of that name; without it the batch axis keeps its sharding."""
    if "out_sharding" not in inspect.signature(type(make(nnx.Rngs(0))).__call__).parameters:
        pytest.skip("no layer in place of nnx.Linear")
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        layer = make(nnx.Rngs(0))
        sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        assert jax.typeof(apply(layer, sharded)).sharding.spec[0] == "data"
        out = layer(sharded, out_sharding=P("data", "model"))
        assert jax.typeof(out).sharding.spec == P("data", "model")
    np.testing.assert_allclose(np.asarray(out), apply(make(nnx.Rngs(0)), x), rtol=1e-5, atol=1e-6)

"""structlayers.linen: the same numbers and parameter names as the nnx layers."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers import linen as sl
from structlayers.butterfly import layers as butterfly_layers
from structlayers.equivariant import layers as equivariant_layers
from structlayers.gla import layers as gla_layers
from structlayers.structured import layers as structured_layers

LAYERS = {
    name: getattr(module, name)
    for module in (butterfly_layers, equivariant_layers, gla_layers, structured_layers)
    for name in module.__all__
    if issubclass(getattr(module, name), nnx.Module)
}

CASES: dict[str, tuple[str, tuple, dict[str, Any], set[str]]] = {
    "butterfly": ("ButterflyLinear", (6, 5), {"num_blocks": 2}, {"twiddle", "bias"}),
    "permuted": (
        "ButterflyLinear",
        (4, 4),
        {"complex": True, "permutation": np.array([2, 0, 3, 1]), "use_bias": False},
        {"twiddle"},
    ),
    "monarch": ("MonarchLinear", (6, 9), {"num_blocks": 3}, {"blocks1", "blocks2", "bias"}),
    "orthogonal": ("OrthogonalButterfly", (8,), {"init": "haar"}, {"angles"}),
    "permutation": ("LearnedPermutation", (8,), {"shared": False}, {"logits"}),
    "circulant": ("CirculantLinear", (6, 9), {}, {"column", "bias"}),
    "toeplitz": ("ToeplitzLikeLinear", (6, 9), {"rank": 2}, {"g", "h", "bias"}),
    "ldr": ("LDRLinear", (6, 5), {"corners": (0.0, 0.0)}, {"g", "h", "a", "b", "bias"}),
    "fastfood": ("FastfoodLinear", (6, 9), {"permutation": 3}, {"scale", "gauss", "sign", "bias"}),
    "gated": (
        "GatedLinearAttention",
        (8,),
        {"num_heads": 2, "conv_size": 3},
        {
            *("query", "key", "value", "gate_down", "gate_up", "output_gate", "norm", "output"),
            "convolutions",
        },
    ),
    "low rank": ("LowRankLinear", (6, 9), {"use_bias": False}, {"u", "v"}),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[str, tuple, dict[str, Any], set[str]]:
    return request.param


def test_every_public_layer_has_a_facade():
    assert sorted(sl.__all__) == sorted(LAYERS)


def test_same_output_and_parameter_names(case, rng: np.random.Generator):
    name, sizes, options, names = case
    x = jnp.asarray(rng.standard_normal((3, sizes[0])), jnp.float32)
    model = getattr(sl, name)(*sizes, **options)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    assert set(variables) == {"params"}
    assert set(variables["params"]) == names

    layer = LAYERS[name](*sizes, rngs=nnx.Rngs(1), **options)
    state = nnx.state(layer)
    nnx.replace_by_pure_dict(state, variables["params"])
    nnx.update(layer, state)
    out = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(out, layer(x), rtol=1e-6, atol=1e-6)


class Net(nn.Module):
    """A compact module with two of the layers inside."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(sl.ButterflyLinear(8, 16, tied=True, name="up")(x))
        return sl.MonarchLinear(16, 4, num_blocks=2, name="down")(x)


def test_nested_in_a_compact_module(rng: np.random.Generator):
    x = jnp.asarray(rng.standard_normal((3, 8)), jnp.float32)
    model = Net()
    variables = model.init(jax.random.key(0), x)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "up": {"twiddle": (2, 1, 7, 2, 2), "bias": (16,)},
        "down": {"blocks1": (2, 2, 8), "blocks2": (2, 2, 2), "bias": (4,)},
    }

    @jax.jit
    def loss(variables: dict) -> jax.Array:
        out: Any = model.apply(variables, x)
        return jnp.mean(out**2)

    gradient = jax.grad(loss)(variables)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient["params"]))


def test_other_methods_are_reached_by_name():
    model = sl.LearnedPermutation(8)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8)))
    indices: Any = model.apply(variables, nnx_method="round")
    assert sorted(indices.tolist()) == list(range(8))


def test_bad_arguments_are_refused_as_in_nnx():
    model = sl.OrthogonalButterfly(12)
    with pytest.raises(ValueError, match="features must be a power of two, got 12"):
        model.init(jax.random.key(0), jnp.zeros((1, 12)))


def test_sharding_names_become_linen_metadata():
    model = sl.MonarchLinear(
        8, 8, num_blocks=2, kernel_metadata={"out_sharding": ("a", None, None)}
    )
    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        boxed = model.init(jax.random.key(0), jnp.zeros((1, 8)))
        specs = nn.get_partition_spec(boxed)
    assert specs["params"]["blocks1"] == jax.sharding.PartitionSpec("a", None, None)


def test_importable_by_name():
    for name in sl.__all__:
        facade: Callable[..., nn.Module] = getattr(sl, name)
        assert inspect.isclass(LAYERS[name])
        assert isinstance(facade(8, *([8] if name.endswith("Linear") else [])), nn.Module)

"""The battery of every layer: each row of eight features is a sequence of four tokens of two."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers.gla import layers
from tests.layers_battery import *  # noqa: F403


class GatedLinearAttention(layers.GatedLinearAttention):
    """The layer as a map of rows."""

    def __call__(self, inputs: jax.Array) -> jax.Array:  # pyrefly: ignore[bad-override]
        tokens = inputs.reshape(*inputs.shape[:-1], 4, 2)
        return super().__call__(tokens).reshape(inputs.shape)


OPTIONS = {
    "plain": {"num_heads": 1},
    "grouped, convolution": {"num_heads": 2, "num_kv_heads": 1, "conv_size": 3},
}


@pytest.fixture(params=OPTIONS.values(), ids=list(OPTIONS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: GatedLinearAttention(
        2, key_features=4, value_features=4, rngs=rngs, **request.param
    )


def test_sharding_metadata(rng: np.random.Generator):
    """Names on the projections shard the heads where they are made."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = jnp.asarray(rng.standard_normal((2, 5, 16)), jnp.float32)
    plain = layers.GatedLinearAttention(16, rngs=nnx.Rngs(0))
    with jax.set_mesh(mesh):
        layer = layers.GatedLinearAttention(
            16,
            in_kernel_metadata={"out_sharding": (None, "model")},
            out_kernel_metadata={"out_sharding": ("model", None)},
            rngs=nnx.Rngs(0),
        )
        assert layer.query.kernel[...].sharding.spec == P(None, "model")
        assert layer.output.kernel[...].sharding.spec == P("model", None)
        out = jax.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(out, plain(x), rtol=1e-5, atol=1e-6)

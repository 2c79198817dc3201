"""The battery of every layer: each row of eight features is a signal of two channels, degree 1."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from structlayers.equivariant import layers
from tests import layers_battery
from tests.layers_battery import *  # noqa: F403


class GauntTensorProduct(layers.GauntTensorProduct):
    """The product of a row with itself."""

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(*x.shape[:-1], 2, 4)
        return super().__call__(rows, rows).reshape(x.shape)


class GauntManyBody(layers.GauntManyBody):
    """Powers of a row."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.reshape(*x.shape[:-1], 2, 4)).reshape(x.shape)


class GauntConvolution(layers.GauntConvolution):
    """Every row is a graph of one node, whose one edge carries its first channel."""

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, 2, 4)
        loops = jnp.arange(len(rows), dtype=jnp.int32)
        out = super().__call__(rows, rows[:, :1], rows[:, 1, :3], loops, loops)
        return out.reshape(x.shape)


LAYERS = {
    "product": partial(GauntTensorProduct, 2, 1, 1),
    "product of rank 2": partial(GauntTensorProduct, 2, 1, 1, rank=2),
    "many body": partial(GauntManyBody, 2, 1),
    "many body of rank 2": partial(GauntManyBody, 2, 1, order=2, rank=2),
    "convolution": partial(GauntConvolution, 2, 1, 1, 3),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: request.param(rngs=rngs)


def test_batch_sharded_over_devices(make, x: jax.Array):
    """Where sums over edges lie is the compiler's choice; their values are the same."""
    layer = make(nnx.Rngs(0))
    if not isinstance(layer, GauntConvolution):
        layers_battery.test_batch_sharded_over_devices(make, x)
        return
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
    out = layers_battery.apply(layer, sharded)
    np.testing.assert_allclose(out, layers_battery.apply(layer, x), rtol=1e-5, atol=1e-6)

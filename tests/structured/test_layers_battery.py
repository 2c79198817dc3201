"""The battery of every layer for the layers of the family, and names on their parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from structlayers.structured.layers import (
    CirculantLinear,
    FastfoodLinear,
    LDRLinear,
    LowRankLinear,
    ToeplitzLikeLinear,
)
from tests.layers_battery import *  # noqa: F403
from tests.layers_battery import apply

LAYERS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "circulant": lambda rngs: CirculantLinear(8, 8, rngs=rngs),
    "circulant by fft": lambda rngs: CirculantLinear(8, 8, implementation="fft", rngs=rngs),
    "toeplitz-like": lambda rngs: ToeplitzLikeLinear(8, 8, rank=2, rngs=rngs),
    "toeplitz-like by fft": lambda rngs: ToeplitzLikeLinear(
        8, 8, rank=2, implementation="fft", rngs=rngs
    ),
    "ldr": lambda rngs: LDRLinear(8, 8, rngs=rngs),
    "ldr by doubling": lambda rngs: LDRLinear(8, 8, implementation="doubling", rngs=rngs),
    "ldr by blocks": lambda rngs: LDRLinear(8, 8, implementation="blocks", rngs=rngs),
    "fastfood": lambda rngs: FastfoodLinear(8, 8, rngs=rngs),
    "low rank": lambda rngs: LowRankLinear(8, 8, rank=3, rngs=rngs),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return request.param


SHARDED = {
    "circulant": (CirculantLinear, "column", ("model", None)),
    "toeplitz-like": (ToeplitzLikeLinear, "g", ("model", None, None)),
    "ldr": (LDRLinear, "a", ("model", None, None)),
    "fastfood": (FastfoodLinear, "gauss", ("model", None)),
    "low rank": (LowRankLinear, "u", ("model", None)),
}


@pytest.mark.parametrize("case", SHARDED.values(), ids=list(SHARDED))
def test_sharding_metadata(case, rng: np.random.Generator):
    """Names on the parameters shard the stacks where they are made; the product is the same."""
    make, name, axes = case
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    plain = make(8, 32, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((4, 8)), jnp.float32)
    with jax.set_mesh(mesh):
        layer = make(8, 32, kernel_metadata={"out_sharding": axes}, rngs=nnx.Rngs(0))
        param = getattr(layer, name)
        assert param[...].sharding.spec == P(*axes)
        values = apply(layer, jax.device_put(x, NamedSharding(mesh, P("data", None))))
    np.testing.assert_allclose(values, apply(plain, x), rtol=1e-5, atol=1e-6)

"""What every layer of the family must do: transforms of JAX, state, sharding, names in profiles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from structlayers.butterfly import initializers
from structlayers.butterfly.layers import (
    ButterflyLinear,
    LearnedPermutation,
    MonarchLinear,
    OrthogonalButterfly,
)
from tests.layers_battery import *  # noqa: F403
from tests.layers_battery import apply

LAYERS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "butterfly": lambda rngs: ButterflyLinear(8, 8, rngs=rngs),
    "butterfly tied": lambda rngs: ButterflyLinear(
        8, 8, tied=True, num_blocks=2, permutation="bit_reversal", rngs=rngs
    ),
    "butterfly complex": lambda rngs: ButterflyLinear(
        8, 8, complex=True, permutation=[3, 1, 2, 0, 7, 6, 5, 4], rngs=rngs
    ),
    "monarch": lambda rngs: MonarchLinear(8, 8, num_blocks=2, rngs=rngs),
    "orthogonal": lambda rngs: OrthogonalButterfly(8, use_bias=True, rngs=rngs),
    "permutation": lambda rngs: LearnedPermutation(8, rngs=rngs),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def make(request: pytest.FixtureRequest) -> Callable[[nnx.Rngs], nnx.Module]:
    return request.param


SHARDED: dict[str, tuple[Callable[..., nnx.Module], str, tuple[str | None, ...]]] = {
    "butterfly": (
        lambda **options: ButterflyLinear(8, 32, **options),
        "twiddle",
        ("model", None, None, None, None, None),  # stacks: four butterflies side by side
    ),
    "monarch": (
        lambda **options: MonarchLinear(32, 32, num_blocks=4, **options),
        "blocks2",
        ("model", None, None),
    ),
    "orthogonal": (
        lambda **options: OrthogonalButterfly(8, num_blocks=4, **options),
        "angles",
        (None, "model", None, None),
    ),
}


@pytest.mark.parametrize("case", SHARDED.values(), ids=list(SHARDED))
def test_sharding_metadata(case, rng: np.random.Generator):
    """Names on the parameter shard it where it is made; the product is that of one device."""
    make, name, axes = case
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    plain = make(rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((4, 32 if name == "blocks2" else 8)), jnp.float32)
    with jax.set_mesh(mesh):
        layer = make(kernel_metadata={"out_sharding": axes}, rngs=nnx.Rngs(0))
        param = getattr(layer, name)
        assert param.get_metadata("out_sharding") == axes
        assert param[...].sharding.spec == P(*axes)
        sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        values = apply(layer, sharded)
    np.testing.assert_allclose(values, apply(plain, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_complex", [False, True])
def test_partitioned_initializer(is_complex: bool):
    """`nnx.with_partitioning` around an initializer, Flax's other way to name axes."""
    axes = (None, None, None, "model", None, None) + (None,) * is_complex
    kernel_init = nnx.with_partitioning(initializers.orthogonal, axes)
    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        layer = ButterflyLinear(8, 8, complex=is_complex, kernel_init=kernel_init, rngs=nnx.Rngs(0))
        assert layer.twiddle[...].sharding == NamedSharding(mesh, P(*axes))
    plain = ButterflyLinear(8, 8, complex=is_complex, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer.twiddle[...], plain.twiddle[...])

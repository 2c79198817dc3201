"""MonarchLinear: sizes, start, projection of dense layers, bad input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.butterfly.layers import MonarchLinear
from structlayers.testing import error_ratio


@pytest.mark.parametrize(
    ("in_features", "out_features", "num_blocks", "block_rank", "parameters"),
    [
        (1, 1, 4, None, 8),
        (10, 3, 4, None, 4 * (3 + 1)),
        (10, 6, 3, None, 3 * 2 * (4 + 2)),
        (64, 64, 8, None, 2 * 8 * 8 * 8),
        (30, 42, (2, 3), None, 30 * 15 + 30 * 14),
        (30, 42, (2, 3), 1, 2 * 3 * 15 + 3 * 2 * 14),
        (7, 129, 1, None, 7 * 7 + 129 * 7),
    ],
)
def test_sizes(rng, in_features, out_features, num_blocks, block_rank, parameters):
    layer = MonarchLinear(
        in_features,
        out_features,
        num_blocks=num_blocks,
        block_rank=block_rank,
        bias_init=nnx.initializers.normal(1.0),
        rngs=nnx.Rngs(0),
    )
    assert layer.blocks1[...].size + layer.blocks2[...].size == parameters
    x = rng.standard_normal((2, 3, in_features)).astype(np.float32)
    y = jax.jit(layer)(jnp.asarray(x))
    assert y.shape == (2, 3, out_features)
    kernel = np.asarray(layer.dense_kernel(), np.float64)
    assert kernel.shape == (in_features, out_features)
    assert layer.bias is not None
    assert error_ratio(y, x @ kernel + np.asarray(layer.bias[...], np.float64)) < 1e-6
    assert jax.eval_shape(layer, jnp.asarray(x[0, 0])).shape == (out_features,)


def test_signature_is_that_of_linear():
    ours = inspect.signature(MonarchLinear.__init__).parameters
    theirs = inspect.signature(nnx.Linear.__init__).parameters
    assert set(theirs) - set(ours) == {"dot_general", "preferred_element_type"}
    for name in set(theirs) & set(ours) - {"kernel_init", "bias_init"}:
        assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default)


def test_starts_with_unit_gain(rng):
    layer = MonarchLinear(512, 768, num_blocks=4, rngs=nnx.Rngs(0))
    x = rng.standard_normal((64, 512)).astype(np.float32)
    assert abs(np.std(layer(jnp.asarray(x))) - 1) < 0.05


def test_kernel_init_sees_one_block_at_a_time():
    shapes = []

    def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        shapes.append(shape)
        return nnx.initializers.orthogonal()(key, shape, dtype)

    layer = MonarchLinear(12, 18, num_blocks=3, kernel_init=kernel_init, rngs=nnx.Rngs(0))
    assert shapes == [(4, 4), (4, 6)]
    for blocks in (layer.blocks1, layer.blocks2):
        for block in np.asarray(blocks[...]):
            np.testing.assert_allclose(block.T @ block, np.eye(block.shape[1]), atol=1e-6)
    assert not np.allclose(layer.blocks1[0], layer.blocks1[1])


def test_projection_returns_a_monarch_layer(rng):
    source = MonarchLinear(
        20,
        14,
        num_blocks=(4, 2),
        block_rank=1,
        bias_init=nnx.initializers.normal(1.0),
        rngs=nnx.Rngs(0),
    )
    linear = nnx.Linear(20, 14, rngs=nnx.Rngs(1))
    linear.kernel[...] = source.dense_kernel()
    linear.bias = source.bias
    layer = MonarchLinear.from_linear(linear, num_blocks=(4, 2), block_rank=1)
    x = jnp.asarray(rng.standard_normal((5, 20)), jnp.float32)
    assert error_ratio(layer(x), linear(x)) < 1e-5


def test_projection_beats_other_members(rng):
    linear = nnx.Linear(24, 24, use_bias=False, rngs=nnx.Rngs(1))
    layer = MonarchLinear.from_linear(linear, num_blocks=4)
    assert layer.bias is None
    target = linear.kernel[...]
    best = error_ratio(layer.dense_kernel(), target)
    assert best < 0.7
    for step in (1e-2, -1e-2):  # no neighbour is nearer
        for param in (layer.blocks1, layer.blocks2):
            kept = param[...]
            noise = jnp.asarray(rng.standard_normal(kept.shape), jnp.float32)
            param[...] = kept + step * noise
            assert error_ratio(layer.dense_kernel(), target) > best
            param[...] = kept


def test_one_block_holds_any_kernel(rng):
    linear = nnx.Linear(9, 5, rngs=nnx.Rngs(1))
    layer = MonarchLinear.from_linear(linear, num_blocks=1)
    x = jnp.asarray(rng.standard_normal((5, 9)), jnp.float32)
    assert error_ratio(layer(x), linear(x)) < 1e-6


def test_from_linear_takes_over_the_settings():
    linear = nnx.Linear(
        8, 8, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, precision="high", rngs=nnx.Rngs(0)
    )
    layer = MonarchLinear.from_linear(linear)
    assert (layer.dtype, layer.precision, layer.use_bias) == (jnp.bfloat16, "high", True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(layer))} == {"bfloat16"}
    assert MonarchLinear.from_linear(linear, dtype=jnp.float32).dtype == jnp.float32


def test_dtypes(rng):
    x = rng.standard_normal((6, 30)).astype(np.float32)
    layer = MonarchLinear(30, 20, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = layer(jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    assert error_ratio(y, x @ np.asarray(layer.dense_kernel(), np.float64)) < 1e-2
    with jax.numpy_dtype_promotion("standard"):
        z = MonarchLinear(30, 20, rngs=nnx.Rngs(0))(jnp.asarray(x * (1 + 1j), jnp.complex64))
    assert z.dtype == jnp.complex64
    with jax.enable_x64(True):
        wide = MonarchLinear(30, 20, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        y = wide(jnp.asarray(x, jnp.float64))
        assert error_ratio(y, x @ np.asarray(wide.dense_kernel())) < 1e-14


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {}, "in_features must be at least 1, got 0"),
        ((4, 0), {}, "out_features must be at least 1, got 0"),
        ((4, 4), {"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ((4, 4), {"block_rank": 0}, "block_rank must be at least 1, got 0"),
        ((4, 4), {"precision": "exact"}, "precision must be None"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MonarchLinear(*arguments, rngs=nnx.Rngs(0), **options)


def test_bad_types():
    with pytest.raises(TypeError, match="param_dtype must be real floating point, got complex64"):
        MonarchLinear(4, 4, param_dtype=jnp.complex64, rngs=nnx.Rngs(0))
    linear = nnx.Linear(4, 4, param_dtype=jnp.complex64, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="the kernel of linear must be real"):
        MonarchLinear.from_linear(linear)
    annotated = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
    with pytest.raises(TypeError, match="by kernel_metadata instead"):
        MonarchLinear(4, 4, kernel_init=annotated, rngs=nnx.Rngs(0))


def test_bad_inputs():
    layer = MonarchLinear(10, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 10\), got \(2, 12\)"):
        layer(jnp.zeros((2, 12)))

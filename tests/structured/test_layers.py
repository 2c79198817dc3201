"""The layers: parameter counts of Table 1, sizes, start, projections, dtypes, signature."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers import replace_linear
from structlayers import structured as st
from structlayers.testing import error_ratio
from tests.structured.cases import circulant, toeplitz_like

LAYERS = (
    st.CirculantLinear,
    st.ToeplitzLikeLinear,
    st.LDRLinear,
    st.FastfoodLinear,
    st.LowRankLinear,
)


@pytest.mark.parametrize(
    ("layer", "options", "parameters", "factor"),
    [
        (st.CirculantLinear, {}, 1024, 93.0),
        (st.ToeplitzLikeLinear, {"rank": 4}, 8192, 56.9),
        (st.LDRLinear, {"rank": 1}, 8192, 56.9),
        (st.FastfoodLinear, {}, 3072, 78.7),
        (st.LowRankLinear, {"rank": 4}, 8192, 56.9),
    ],
)
def test_compression_of_table_1(layer, options, parameters, factor):
    """Dao et al. 2019, Table 1: N^2 over all parameters of the network with N = 1024."""
    made = nnx.eval_shape(lambda: layer(1024, 1024, use_bias=False, rngs=nnx.Rngs(0), **options))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))
    assert count == parameters
    assert round(1024**2 / (count + 10 * 1024 + 10), 1) == factor
    default = nnx.eval_shape(lambda: layer(1024, 1024, use_bias=False, rngs=nnx.Rngs(0)))
    assert jax.tree.map(jnp.shape, nnx.state(default)) == jax.tree.map(jnp.shape, nnx.state(made))


@pytest.mark.parametrize("sizes", [(1, 1), (7, 5), (6, 20), (10, 10)])
@pytest.mark.parametrize("layer", LAYERS)
def test_sizes(layer, sizes, rng: np.random.Generator):
    made = layer(*sizes, bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    x = rng.standard_normal((2, 3, sizes[0])).astype(np.float32)
    kernel = np.asarray(made.dense_kernel(), np.float64)
    assert kernel.shape == sizes
    y = made(jnp.asarray(x))
    assert y.shape == (2, 3, sizes[1])
    assert error_ratio(y, x @ kernel + np.asarray(made.bias[...], np.float64)) < 2e-6
    assert made(jnp.asarray(x[0, 0])).shape == (sizes[1],)


@pytest.mark.parametrize("layer", LAYERS)
def test_signature_is_that_of_linear(layer):
    ours = inspect.signature(layer.__init__).parameters
    theirs = inspect.signature(nnx.Linear.__init__).parameters
    assert set(theirs) - set(ours) == {"dot_general", "preferred_element_type"}
    for name in set(theirs) & set(ours) - {"kernel_init", "bias_init"}:
        assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default)
    assert list(ours)[-3] == "rngs"


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (st.CirculantLinear, {}),
        (st.ToeplitzLikeLinear, {"rank": 3}),
        (st.LDRLinear, {"rank": 2}),
        (st.FastfoodLinear, {}),
        (st.LowRankLinear, {"rank": 8}),
    ],
)
def test_starts_with_unit_gain(layer, options):
    """The squared Frobenius norm of the kernel is `out` on average over seeds."""

    def norm(seed: jax.Array) -> jax.Array:
        made = layer(32, 64, rngs=nnx.Rngs(seed), **options)
        return jnp.sum(made.dense_kernel() ** 2) / 64

    norms = jax.jit(jax.vmap(norm))(jax.random.split(jax.random.key(0), 200))
    assert abs(float(jnp.mean(norms)) - 1) < 4 * float(jnp.std(norms)) / 200**0.5 + 1e-3


def test_fastfood_starts_as_published():
    layer = st.FastfoodLinear(64, 64, rngs=nnx.Rngs(0))
    assert set(np.unique(layer.sign[...])) == {-1.0, 1.0}
    rows = jnp.linalg.norm(layer.dense_kernel().T, axis=1)
    chi = layer.scale[...][0] * jnp.linalg.norm(layer.gauss[...])
    np.testing.assert_allclose(rows, chi / 8, rtol=1e-5)  # lengths of normal vectors over sqrt(N)


def test_ldr_starts_as_toeplitz_like():
    layer = st.LDRLinear(12, 12, rank=2, rngs=nnx.Rngs(0))
    other = st.toeplitz_like_to_dense(layer.g[...], layer.h[...])
    assert error_ratio(layer.dense_kernel().T, other) < 1e-6
    nilpotent = st.LDRLinear(12, 12, corners=(0.0, 0.0), rngs=nnx.Rngs(0))
    assert not nilpotent.a[..., 0, 0].any()
    assert error_ratio(nilpotent.dense_kernel(), layer.dense_kernel()) > 0.1


def test_permutation_of_fastfood(rng: np.random.Generator):
    x = jnp.asarray(rng.standard_normal((3, 8)), jnp.float32)

    def make(permutation):
        return st.FastfoodLinear(8, 16, permutation=permutation, rngs=nnx.Rngs(0))

    np.testing.assert_array_equal(make(3)(x), make(3)(x))
    assert not np.allclose(make(3)(x), make(4)(x))
    given = make(3).permutation.values
    assert given.shape == (2, 8)
    np.testing.assert_array_equal(make(given)(x), make(3)(x))
    assert make(given[0]).permutation.values.tolist() == [given[0].tolist()] * 2


def linear_with(kernel: np.ndarray) -> nnx.Linear:
    linear = nnx.Linear(*kernel.shape, bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    linear.kernel[...] = jnp.asarray(kernel, jnp.float32)
    return linear


def member(name: str, rng: np.random.Generator) -> np.ndarray:
    if name == "circulant":
        return np.concatenate([circulant(rng.standard_normal(9)) for _ in range(2)])[:13].T
    if name == "toeplitz_like":
        return toeplitz_like(*rng.standard_normal((2, 3, 9))).T
    return rng.standard_normal((9, 3)) @ rng.standard_normal((3, 13))


PROJECTED = {
    "circulant": (st.CirculantLinear, {}),
    "toeplitz_like": (st.ToeplitzLikeLinear, {"rank": 3}),
    "low_rank": (st.LowRankLinear, {"rank": 3}),
}


@pytest.mark.parametrize("name", PROJECTED)
def test_members_are_found_exactly(name: str, rng: np.random.Generator):
    layer, options = PROJECTED[name]
    linear = linear_with(member(name, rng))
    x = jnp.asarray(rng.standard_normal((5, 9)), jnp.float32)
    assert error_ratio(layer.from_linear(linear, **options)(x), linear(x)) < 1e-5


def test_toeplitz_matrices_have_rank_two(rng: np.random.Generator):
    entries = rng.standard_normal(21)
    kernel = np.array([[entries[10 + i - j] for i in range(11)] for j in range(11)])
    layer = st.ToeplitzLikeLinear.from_linear(linear_with(kernel), rank=2)
    assert error_ratio(layer.dense_kernel(), kernel) < 1e-5


@pytest.mark.parametrize("name", ["circulant", "low_rank"])
def test_projection_is_the_nearest(name: str, rng: np.random.Generator):
    layer, options = PROJECTED[name]
    kernel = rng.standard_normal((9, 13))
    projected = layer.from_linear(linear_with(kernel), **options)
    best = error_ratio(projected.dense_kernel(), kernel)
    for step in (1e-2, -1e-2):
        for param in jax.tree.leaves(
            [getattr(projected, name) for name in layer.WEIGHTS],
            is_leaf=lambda leaf: isinstance(leaf, nnx.Param),
        ):
            kept = param[...]
            param[...] = kept + step * jnp.asarray(rng.standard_normal(kept.shape), jnp.float32)
            assert error_ratio(projected.dense_kernel(), kernel) > best
            param[...] = kept


def test_full_displacement_rank_holds_any_kernel(rng: np.random.Generator):
    kernel = rng.standard_normal((6, 15))
    layer = st.ToeplitzLikeLinear.from_linear(linear_with(kernel), rank=6)
    assert error_ratio(layer.dense_kernel(), kernel) < 1e-5


def test_from_linear_takes_over_the_settings():
    linear = nnx.Linear(
        8, 8, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, precision="high", rngs=nnx.Rngs(0)
    )
    for layer, options in PROJECTED.values():
        made = layer.from_linear(linear, **options)
        assert (made.dtype, made.precision, made.use_bias) == (jnp.bfloat16, "high", True)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(made))} == {"bfloat16"}
        assert layer.from_linear(linear, dtype=jnp.float32, **options).dtype == jnp.float32


def test_replaces_a_linear():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 2, rngs=rngs))
    model = replace_linear(model, "layers/0", st.CirculantLinear.from_linear)
    assert model(jnp.ones((3, 8))).shape == (3, 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_dtypes(layer, rng: np.random.Generator):
    x = rng.standard_normal((6, 30)).astype(np.float32)
    made = layer(30, 20, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = made(jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    kernel = np.asarray(made.dense_kernel(), np.float64)
    assert error_ratio(y.astype(jnp.float32), x @ kernel) < 1e-2
    with jax.numpy_dtype_promotion("standard"):
        z = layer(30, 20, rngs=nnx.Rngs(0))(jnp.asarray(x * (1 + 1j), jnp.complex64))
    assert z.dtype == jnp.complex64
    with jax.enable_x64(True):
        wide = layer(30, 20, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        y = wide(jnp.asarray(x, jnp.float64))
        assert error_ratio(y, x @ np.asarray(wide.dense_kernel())) < 1e-13

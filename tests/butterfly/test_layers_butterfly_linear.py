"""ButterflyLinear: sizes, dtypes, complex pairs, exact starts, bad input."""

import inspect
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structlayers.butterfly import ButterflyOperator, initializers, transforms
from structlayers.butterfly.layers import ButterflyLinear
from structlayers.testing import error_ratio

apply = jax.jit(lambda layer, x: layer(x))
kernel_of = jax.jit(lambda layer: layer.dense_kernel())


def dense_of(layer: ButterflyLinear, x: np.ndarray) -> np.ndarray:
    """What the equivalent dense layer gives, in float64 or complex128."""
    kernel = np.asarray(kernel_of(layer))
    wide = np.complex128 if np.iscomplexobj(kernel) or np.iscomplexobj(x) else np.float64
    out = x.astype(wide) @ kernel.astype(wide)
    if layer.bias is None:
        return out
    bias = np.asarray(layer.bias[...]).astype(np.float64)
    return out + (bias[:, 0] + 1j * bias[:, 1] if bias.ndim == 2 else bias)


@pytest.mark.parametrize(
    ("in_features", "out_features", "stacks", "size", "tied"),
    [
        (1, 1, 1, 2, False),
        (1, 5, 3, 2, True),
        (2, 2, 1, 2, False),
        (10, 3, 1, 16, False),
        (8, 20, 3, 8, True),
        (33, 1, 1, 64, True),
        (64, 64, 1, 64, False),
    ],
)
def test_sizes(rng, in_features: int, out_features: int, stacks: int, size: int, tied: bool):
    layer = ButterflyLinear(
        in_features,
        out_features,
        tied=tied,
        num_blocks=2,
        bias_init=nnx.initializers.normal(1.0),
        rngs=nnx.Rngs(0),
    )
    levels = size.bit_length() - 1
    shape = (stacks, 2, size - 1, 2, 2) if tied else (stacks, 2, levels, size // 2, 2, 2)
    assert layer.twiddle.shape == shape
    x = rng.standard_normal((3, 2, in_features)).astype(np.float32)
    y = apply(layer, jnp.asarray(x))
    assert y.shape == (3, 2, out_features)
    assert y.dtype == jnp.float32
    assert error_ratio(y, dense_of(layer, x)) < 1e-6
    assert jax.eval_shape(layer, jnp.asarray(x[0, 0])).shape == (out_features,)


def test_large_odd_size(rng):
    layer = ButterflyLinear(1025, 1025, rngs=nnx.Rngs(0))
    assert layer.twiddle.shape == (1, 1, 11, 1024, 2, 2)
    x = rng.standard_normal((2, 1025)).astype(np.float32)
    assert error_ratio(apply(layer, jnp.asarray(x)), dense_of(layer, x)) < 1e-6


@pytest.mark.parametrize(
    ("is_complex", "real_part", "permutation"),
    [
        (False, True, None),
        (False, True, "each"),
        (True, True, "bit_reversal"),
        (True, False, "one"),
        (True, False, "each"),
    ],
)
def test_equals_its_dense_kernel(rng, is_complex: bool, real_part: bool, permutation: str | None):
    indices = {
        None: None,
        "bit_reversal": "bit_reversal",
        "one": rng.permutation(16),
        "each": np.stack([rng.permutation(16) for _ in range(3)]),
    }
    layer = ButterflyLinear(
        13,
        29,
        num_blocks=3,
        alternating=False,
        increasing_stride=False,
        complex=is_complex,
        real_part=real_part,
        permutation=indices[permutation],
        output_permutation="bit_reversal",
        bias_init=nnx.initializers.normal(1.0),
        rngs=nnx.Rngs(1),
    )
    x = rng.standard_normal((4, 13)).astype(np.float32)
    y = apply(layer, jnp.asarray(x))
    assert jnp.iscomplexobj(y) == (is_complex and not real_part)
    assert error_ratio(y, dense_of(layer, x)) < 1e-6
    if not (is_complex and real_part):
        z = (x + 1j * rng.standard_normal((4, 13))).astype(np.complex64)
        with jax.numpy_dtype_promotion("standard"):  # real parameters meet complex inputs
            assert error_ratio(apply(layer, jnp.asarray(z)), dense_of(layer, z)) < 1e-6


def test_signature_is_that_of_linear():
    ours = inspect.signature(ButterflyLinear.__init__).parameters
    theirs = inspect.signature(nnx.Linear.__init__).parameters
    # arguments of the dense product itself, which there is none of here
    assert set(theirs) - set(ours) == {"dot_general", "preferred_element_type"}
    for name in set(theirs) & set(ours):
        assert ours[name].kind == theirs[name].kind, name
        if name not in ("kernel_init", "bias_init"):
            assert ours[name].default == theirs[name].default, name
    assert ours["bias_init"].default(jax.random.key(0), (3,), jnp.float32).tolist() == [0, 0, 0]


def test_starts_as_an_isometry(rng):
    layer = ButterflyLinear(64, 64, num_blocks=3, rngs=nnx.Rngs(0))
    x = rng.standard_normal((5, 64)).astype(np.float32)
    norms = np.linalg.norm(apply(layer, jnp.asarray(x)), axis=-1)
    np.testing.assert_allclose(norms, np.linalg.norm(x, axis=-1), rtol=1e-6)


def test_gaussian_start_has_the_papers_moments():
    layer = ButterflyLinear(
        512, 512, complex=True, kernel_init=initializers.gaussian, rngs=nnx.Rngs(0)
    )
    pairs = np.asarray(layer.twiddle[...])
    assert pairs.shape[-3:] == (2, 2, 2)
    assert abs(pairs.std() - 0.5) < 0.01  # re and im each of variance 1/4


def test_same_seed_same_layer_other_seed_other_layer():
    first, again, other = (ButterflyLinear(6, 5, rngs=nnx.Rngs(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.twiddle[...], again.twiddle[...])
    assert not np.array_equal(first.twiddle[...], other.twiddle[...])
    rngs = nnx.Rngs(3)
    ButterflyLinear(6, 5, rngs=rngs)
    assert not np.array_equal(first.twiddle[...], ButterflyLinear(6, 5, rngs=rngs).twiddle[...])


def test_bfloat16(rng):
    x = rng.standard_normal((16, 40)).astype(np.float32)
    layer = ButterflyLinear(40, 24, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer.twiddle.dtype == jnp.float32
    y = apply(layer, jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    assert error_ratio(y, dense_of(layer, x)) < 1e-2
    stored = ButterflyLinear(40, 24, param_dtype=jnp.bfloat16, complex=True, rngs=nnx.Rngs(0))
    assert stored.twiddle.dtype == jnp.bfloat16
    y = apply(stored, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert (
        error_ratio(y, dense_of(stored, np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)))
        < 1e-2
    )


def test_float64(rng):
    with jax.enable_x64(True):
        x = rng.standard_normal((4, 50))
        for is_complex in (False, True):
            layer = ButterflyLinear(
                50, 70, param_dtype=jnp.float64, complex=is_complex, rngs=nnx.Rngs(0)
            )
            y = apply(layer, jnp.asarray(x))
            assert y.dtype == jnp.float64
            assert error_ratio(y, dense_of(layer, x)) < 1e-14


def test_promotion_follows_flax():
    with jax.numpy_dtype_promotion("standard"):
        for dtype in (None, jnp.bfloat16, jnp.float32):
            for x in (jnp.ones((2, 4), jnp.bfloat16), jnp.ones((2, 4), jnp.int32)):
                for param_dtype in (jnp.bfloat16, jnp.float32):
                    kinds = {"dtype": dtype, "param_dtype": param_dtype}
                    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0), **kinds)
                    ours = ButterflyLinear(4, 3, rngs=nnx.Rngs(0), **kinds)
                    assert jax.eval_shape(ours, x).dtype == linear(x).dtype


def test_complex_gradient_is_a_direction_of_ascent(rng):
    """A gradient step on the pairs lowers the loss to first order, in both parts."""
    layer = ButterflyLinear(8, 8, complex=True, real_part=False, use_bias=False, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((4, 8)), jnp.float32)
    target = jnp.fft.fft(x)

    graphdef, state = nnx.split(layer)

    @jax.jit
    def loss(pairs: jax.Array) -> jax.Array:
        error = nnx.merge(graphdef, nnx.State({"twiddle": nnx.Param(pairs)}))(x) - target
        return jnp.mean(error.real**2 + error.imag**2)

    pairs = nnx.to_pure_dict(state)["twiddle"]
    value, gradient = jax.value_and_grad(loss)(pairs)
    assert jnp.all(jnp.any(gradient != 0, axis=tuple(range(gradient.ndim - 1))))
    for part in (0, 1):
        only = gradient * jax.nn.one_hot(part, 2).reshape((1,) * (gradient.ndim - 1) + (2,))
        step = 1e-3
        predicted = float(value - step * jnp.sum(only**2))
        lowered = float(loss(pairs - step * only))
        assert lowered < float(value)
        assert abs(lowered - predicted) < 0.1 * (float(value) - predicted)


@pytest.mark.parametrize(("tied", "real_part"), [(True, False), (False, True)])
def test_round_trip_through_the_operator(rng, tied: bool, real_part: bool):
    layer = ButterflyLinear(
        12,
        20,
        size=32,
        tied=tied,
        complex=True,
        real_part=real_part,
        num_blocks=2,
        permutation="bit_reversal",
        output_permutation=rng.permutation(32),
        increasing_stride=False,
        use_bias=False,
        rngs=nnx.Rngs(0),
    )
    x = jnp.asarray(rng.standard_normal((3, 12)), jnp.float32)
    operator = layer.operator()
    expected = apply(layer, x)
    np.testing.assert_array_equal(apply(operator, x), expected)
    copy = ButterflyLinear.from_operator(operator, use_bias=False)
    np.testing.assert_array_equal(apply(copy, x), expected)
    assert copy.operator().shape == (20, 12)


TRANSFORMS: dict[str, Callable[[], ButterflyOperator]] = {
    "dft": lambda: transforms.dft(16),
    "inverse dft, tied": lambda: transforms.inverse_dft(16, tied=True),
    "dct": lambda: transforms.dct(16),
    "hartley": lambda: transforms.hartley(16),
    "hadamard": lambda: transforms.hadamard(16),
    "circulant": lambda: transforms.circulant(np.arange(16.0)),
    "toeplitz": lambda: transforms.toeplitz(np.arange(5.0), np.array([0.0, 3, 1, 2, 7, 5])),
}


@pytest.mark.parametrize("construct", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_starts_as_an_exact_transform(construct: Callable[[], ButterflyOperator], rng):
    operator = construct()
    layer = ButterflyLinear.from_operator(operator)
    rows, columns = operator.shape
    assert (layer.out_features, layer.in_features) == (rows, columns)
    assert layer.bias is not None
    x = jnp.asarray(rng.standard_normal((3, columns)), jnp.float32)
    assert error_ratio(apply(layer, x), apply(operator, x)) < 1e-6
    assert error_ratio(kernel_of(layer).T, operator.to_dense()) < 1e-6


@pytest.mark.parametrize("permutation", [None, "bit_reversal"])
def test_from_linear_recovers_a_butterfly(rng, permutation: str | None):
    # whole square stacks: rows that were cut could not be known
    linear = nnx.Linear(16, 32, rngs=nnx.Rngs(0))
    wide = ButterflyLinear(16, 32, permutation=permutation, rngs=nnx.Rngs(2))
    linear.kernel[...] = kernel_of(wide)
    linear.bias = nnx.Param(jnp.asarray(rng.standard_normal(32), jnp.float32))
    layer = ButterflyLinear.from_linear(linear, permutation=permutation)
    x = jnp.asarray(rng.standard_normal((5, 16)), jnp.float32)
    assert error_ratio(apply(layer, x), linear(x)) < 2e-6


def test_from_linear_of_a_complex_layer(rng):
    linear = nnx.Linear(
        8,
        8,
        param_dtype=jnp.complex64,
        bias_init=nnx.initializers.normal(1.0),
        rngs=nnx.Rngs(0),
    )
    linear.kernel[...] = transforms.dft(8).to_dense().T
    layer = ButterflyLinear.from_linear(linear, permutation="bit_reversal")
    assert (layer.complex, layer.real_part) == (True, False)
    x = jnp.asarray(rng.standard_normal((5, 8)), jnp.float32)
    assert error_ratio(apply(layer, x), linear(x.astype(jnp.complex64))) < 1e-6


def test_from_operator_without_numbers():
    """Abstract construction, as a checkpoint is restored."""
    layer = nnx.eval_shape(lambda: ButterflyLinear.from_operator(transforms.dft(8), use_bias=False))
    assert layer.twiddle.shape == (1, 1, 3, 4, 2, 2, 2)


def test_from_linear_approximates_any_kernel(rng):
    linear = nnx.Linear(10, 3, dtype=jnp.bfloat16, use_bias=False, rngs=nnx.Rngs(0))
    layer = ButterflyLinear.from_linear(linear)
    assert layer.bias is None
    assert layer.dtype == jnp.bfloat16
    error = error_ratio(kernel_of(layer), linear.kernel[...])
    random = error_ratio(kernel_of(ButterflyLinear(10, 3, rngs=nnx.Rngs(0))), linear.kernel[...])
    assert error < 0.9 < random


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {}, "in_features must be at least 1, got 0"),
        ((4, -1), {}, "out_features must be at least 1, got -1"),
        ((4, 4), {"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ((4, 4), {"size": 6}, "size must be a power of two, got 6"),
        ((9, 4), {"size": 8}, "size must be at least in_features = 9, got 8"),
        ((4, 4), {"permutation": "bit-reversal"}, "must be None, 'bit_reversal' or indices"),
        ((4, 4), {"permutation": np.arange(5)}, r"shape \(4,\) or \(1, 4\), got \(5,\)"),
        ((4, 4), {"permutation": [0, 1, 2, 2]}, r"hold each of 0 .. 3 once"),
        ((4, 4), {"output_permutation": np.zeros((1, 4), int)}, r"shape \(4,\), got \(1, 4\)"),
        ((4, 4), {"precision": "exact"}, "precision must be None"),
    ],
)
def test_bad_arguments(arguments: tuple, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ButterflyLinear(*arguments, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"param_dtype": jnp.complex64},
            r"param_dtype must be real .*, got complex64; .* with complex=True",
        ),
        ({"param_dtype": jnp.int32}, "param_dtype must be real"),
        ({"dtype": jnp.complex64, "complex": True}, "dtype must be real"),
        ({"permutation": np.arange(4.0)}, "permutation must hold integers, got dtype float"),
    ],
)
def test_bad_types(options: dict, message: str):
    with pytest.raises(TypeError, match=message):
        ButterflyLinear(4, 4, rngs=nnx.Rngs(0), **options)


def test_bad_inputs():
    layer = ButterflyLinear(10, 3, rngs=nnx.Rngs(0))
    for shape in ((2, 9), (2, 16), (10, 2), ()):
        message = re.escape(f"inputs must have shape (*B, 10), got {shape}")
        with pytest.raises(ValueError, match=message):
            layer(jnp.zeros(shape))
    layer = ButterflyLinear(4, 4, complex=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs are complex64, .*real_part=False"):
        layer(jnp.zeros((2, 4), jnp.complex64))

"""OrthogonalButterfly: orthogonal at every step, whatever the form and the optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from structlayers.butterfly.layers import OrthogonalButterfly
from structlayers.testing import error_ratio

FORMS = {
    "rotation": {},
    "reflection": {"reflection": True},
    "unitary": {"complex": True},
    "tied": {"tied": True},
    "tied unitary": {"tied": True, "complex": True},
    "blocks": {"num_blocks": 3, "permutation": "bit_reversal", "alternating": False},
}


apply = jax.jit(lambda layer, x: layer(x))
kernel_of = jax.jit(lambda layer: layer.dense_kernel())


def departure(layer: OrthogonalButterfly) -> float:
    """Largest entry of `Q^H Q - I`."""
    kernel = np.asarray(kernel_of(layer))
    return float(np.abs(kernel.conj().T @ kernel - np.eye(layer.features)).max())


def rounding(layer: OrthogonalButterfly) -> float:
    """Four float32 roundings for each factor."""
    return 4 * 2**-24 * layer.num_blocks * (layer.features.bit_length() - 1)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_orthogonal_after_every_step(form: dict, rng):
    layer = OrthogonalButterfly(32, rngs=nnx.Rngs(0), **form)
    assert departure(layer) < rounding(layer)
    x = jnp.asarray(rng.standard_normal((8, 32)), jnp.float32)
    target = jnp.asarray(rng.standard_normal((8, 32)), jnp.float32)
    optimizer = optax.sgd(0.5, momentum=0.9)  # large steps: the angles may go anywhere
    graphdef, state = nnx.split(layer)
    memory = optimizer.init(state)

    @jax.jit
    def step(state: nnx.State, memory: optax.OptState) -> tuple:
        def loss(state: nnx.State) -> jax.Array:
            y = nnx.merge(graphdef, state)(x)
            return jnp.sum(jnp.abs(y - target.astype(y.dtype)) ** 2)

        value, gradient = jax.value_and_grad(loss)(state)
        updates, memory = optimizer.update(gradient, memory, state)
        return optax.apply_updates(state, updates), memory, value

    start = state
    for _ in range(5):
        state, memory, _ = step(state, memory)
        layer = nnx.merge(graphdef, state)
        assert departure(layer) < rounding(layer)
        norms = np.linalg.norm(np.asarray(apply(layer, x)), axis=-1)
        np.testing.assert_allclose(norms, np.linalg.norm(x, axis=-1), rtol=rounding(layer))
    first, last = (nnx.to_pure_dict(s)["angles"] for s in (start, state))
    assert float(jnp.abs(last - first).max()) > 1


@pytest.mark.parametrize("is_complex", [False, True])
def test_large_angles(is_complex: bool):
    """An optimiser may carry an angle through many turns."""
    layer = OrthogonalButterfly(
        32, complex=is_complex, tied=True, init=nnx.initializers.normal(1e3), rngs=nnx.Rngs(0)
    )
    assert departure(layer) < rounding(layer)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_equals_its_dense_kernel(form: dict, rng):
    layer = OrthogonalButterfly(
        16, use_bias=True, bias_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(1), **form
    )
    assert layer.bias is not None
    bias = np.asarray(layer.bias[...], np.float64)
    bias = bias[:, 0] + 1j * bias[:, 1] if bias.ndim == 2 else bias
    kernel = np.asarray(kernel_of(layer)).astype(np.complex128)
    real = rng.standard_normal((3, 5, 16)).astype(np.float32)
    for x in (real, (real + 1j * rng.standard_normal(real.shape)).astype(np.complex64)):
        y = apply(layer, jnp.asarray(x))
        assert jnp.iscomplexobj(y) == (jnp.iscomplexobj(x) or layer.complex)
        assert error_ratio(y, x @ kernel + bias) < 1e-6


@pytest.mark.parametrize("is_complex", [False, True])
def test_identity(is_complex: bool):
    layer = OrthogonalButterfly(8, complex=is_complex, init="identity", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(kernel_of(layer), np.eye(8))


def test_reflections_reach_hadamard():
    layer = OrthogonalButterfly(
        8, reflection=True, init=nnx.initializers.constant(np.pi / 4), rngs=nnx.Rngs(0)
    )
    signs = [[(-1) ** (i & j).bit_count() for j in range(8)] for i in range(8)]
    np.testing.assert_allclose(kernel_of(layer), np.array(signs) / np.sqrt(8), atol=1e-6)


def test_haar_moments():
    """Squared entries of Haar blocks: mean 1/2, variance 1/8 in O(2), 1/12 (uniform) in U(2)."""
    for is_complex, variance in ((False, 1 / 8), (True, 1 / 12)):
        layer = OrthogonalButterfly(1024, complex=is_complex, rngs=nnx.Rngs(0))
        squared = np.abs(np.asarray(layer.twiddle())[..., 0, 0]) ** 2
        assert abs(squared.mean() - 0.5) < 0.02
        assert abs(squared.var() - variance) < 0.01


@pytest.mark.parametrize("is_complex", [False, True])
def test_parameter_counts(is_complex: bool):
    per_block = 4 if is_complex else 1
    for tied, blocks in ((False, 5 * 16), (True, 31)):
        layer = OrthogonalButterfly(32, tied=tied, complex=is_complex, rngs=nnx.Rngs(0))
        assert layer.angles[...].size == per_block * blocks


def test_bfloat16_keeps_the_norm(rng):
    """Angles stay float32 inside, so the norm is off by the rounding of input and output alone."""
    layer = OrthogonalButterfly(1024, dtype=jnp.bfloat16, num_blocks=4, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((4, 1024)), jnp.bfloat16)
    y = apply(layer, x)
    assert y.dtype == jnp.bfloat16
    norms = [np.linalg.norm(np.asarray(a, np.float64), axis=-1) for a in (x, y)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-3)


def test_float64(rng):
    with jax.enable_x64(True):
        for is_complex in (False, True):
            layer = OrthogonalButterfly(
                64, param_dtype=jnp.float64, complex=is_complex, rngs=nnx.Rngs(0)
            )
            assert departure(layer) < 1e-14
            x = rng.standard_normal((3, 64))
            y = apply(layer, jnp.asarray(x))
            assert y.dtype == (jnp.complex128 if is_complex else jnp.float64)
            assert error_ratio(y, x @ np.asarray(kernel_of(layer))) < 1e-14


def test_size_one(rng):
    layer = OrthogonalButterfly(1, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.standard_normal((3, 1)), jnp.float32)
    np.testing.assert_array_equal(layer(x), x)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (0, {}, "features must be at least 1, got 0"),
        (12, {}, "features must be a power of two, got 12"),
        (8, {"init": "gaussian"}, "init must be one of 'haar', 'identity', got 'gaussian'"),
        (8, {"init": "identity", "reflection": True}, "init='identity' needs reflection=False"),
        (8, {"complex": True, "reflection": True}, "reflection must be False when complex"),
        (8, {"permutation": np.arange(4)}, r"permutation must have shape \(8,\)"),
    ],
)
def test_bad_arguments(features: int, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OrthogonalButterfly(features, rngs=nnx.Rngs(0), **options)


def test_bad_inputs():
    with pytest.raises(TypeError, match="param_dtype must be real"):
        OrthogonalButterfly(8, param_dtype=jnp.complex64, rngs=nnx.Rngs(0))
    layer = OrthogonalButterfly(8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"inputs must have shape \(\*B, 8\), got \(2, 7\)"):
        layer(jnp.zeros((2, 7)))

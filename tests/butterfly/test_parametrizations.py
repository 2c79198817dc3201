"""Angles to orthogonal and unitary twiddles, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import (
    butterfly_to_dense,
    rotation_angles,
    rotation_twiddle,
    twiddle_shape,
    unitary_angles,
    unitary_twiddle,
)


def gram_error(blocks):
    blocks = np.asarray(blocks)
    gram = np.einsum("...ji,...jk->...ik", blocks.conj(), blocks)
    return np.abs(gram - np.eye(2)).max()


def test_rotations_and_reflections(rng):
    angles = 10 * rng.standard_normal((2, 50)).astype(np.float32)
    reflection = rng.random((2, 50)) < 0.5
    blocks = rotation_twiddle(angles, reflection)
    assert blocks.shape == (2, 50, 2, 2)
    assert gram_error(blocks) < 5e-7
    np.testing.assert_allclose(np.linalg.det(blocks), np.where(reflection, -1, 1), atol=1e-6)
    assert gram_error(rotation_twiddle(angles)) < 5e-7
    np.testing.assert_allclose(np.linalg.det(rotation_twiddle(angles)), 1, atol=1e-6)
    quarter = rotation_twiddle(np.array([np.pi / 2], np.float32))[0]
    np.testing.assert_allclose(quarter, [[0, -1], [1, 0]], atol=1e-7)


def test_rotation_angles_invert(rng):
    angles = rng.uniform(-3, 3, (40,)).astype(np.float32)
    reflection = rng.random(40) < 0.5
    found, flags = rotation_angles(rotation_twiddle(angles, reflection))
    np.testing.assert_allclose(found, angles, atol=1e-6)
    np.testing.assert_array_equal(flags, reflection)


def test_unitary_blocks(rng):
    angles = 10 * rng.standard_normal((3, 50, 4)).astype(np.float32)
    blocks = unitary_twiddle(angles)
    assert blocks.shape == (3, 50, 2, 2)
    assert blocks.dtype == np.complex64
    assert gram_error(blocks) < 5e-7
    f, a, b, c = np.moveaxis(angles.astype(np.float64), -1, 0)
    expected = np.exp(1j * a)[..., None, None] * np.stack(
        [
            np.stack([np.exp(1j * b) * np.cos(f), np.exp(1j * c) * np.sin(f)], -1),
            np.stack([-np.exp(-1j * c) * np.sin(f), np.exp(-1j * b) * np.cos(f)], -1),
        ],
        -2,
    )
    # the angles sum to 60 or so before the cosine, in float32
    np.testing.assert_allclose(blocks, expected, atol=2e-5)


def test_unitary_angles_invert_every_unitary_block(rng):
    values = rng.standard_normal((200, 2, 2)) + 1j * rng.standard_normal((200, 2, 2))
    blocks = np.linalg.qr(values)[0].astype(np.complex64)
    edge = np.array(
        [np.eye(2), [[0, 1], [1, 0]], [[0, 1], [-1, 0]], -np.eye(2), [[1j, 0], [0, 1]]],
        np.complex64,
    )
    for given in (blocks, edge, np.array([[[0.6, -0.8], [0.8, 0.6]]], np.float32)):
        angles = unitary_angles(given)
        assert angles.dtype == np.float32
        np.testing.assert_allclose(unitary_twiddle(angles), given, atol=1e-6)


def test_exact_to_rounding_in_float64(rng):
    with jax.enable_x64(True):
        angles = 10 * rng.standard_normal((50, 4))
        assert gram_error(unitary_twiddle(angles)) < 2e-15
        assert gram_error(rotation_twiddle(angles)) < 2e-15
        assert unitary_twiddle(angles).dtype == np.complex128


@pytest.mark.parametrize("unitary", [True, False])
def test_training_stays_orthogonal(unitary, rng):
    n = 16
    shape = twiddle_shape(n)[:-2]
    target = np.linalg.qr(rng.standard_normal((n, n)))[0].astype(np.float32)
    start = jnp.asarray(rng.standard_normal((*shape, 4) if unitary else shape), jnp.float32)
    to_twiddle = unitary_twiddle if unitary else rotation_twiddle

    def loss(angles):
        difference = butterfly_to_dense(to_twiddle(angles)) - target
        return jnp.mean(jnp.real(difference) ** 2 + jnp.imag(difference) ** 2)

    @jax.jit
    def train(angles):
        def step(angles, _):
            value, gradient = jax.value_and_grad(loss)(angles)
            return angles - 2.0 * gradient, value

        return jax.lax.scan(step, angles, None, length=60)

    if unitary:
        target = target.astype(np.complex64)
    angles, values = train(start)
    assert values[-1] < values[0]
    dense = np.asarray(butterfly_to_dense(to_twiddle(angles)))
    np.testing.assert_allclose(dense.conj().T @ dense, np.eye(n), atol=3e-6)


def test_half_precision_angles():
    assert unitary_twiddle(jnp.zeros((3, 4), jnp.bfloat16)).dtype == jnp.complex64
    assert rotation_twiddle(jnp.zeros(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="angles must be real"):
        rotation_twiddle(np.zeros(3, np.complex64))
    with pytest.raises(TypeError, match="angles must be real"):
        unitary_twiddle(np.zeros(4, np.int32))
    with pytest.raises(TypeError, match="reflection must be boolean"):
        rotation_twiddle(np.zeros(3, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"angles must have shape \(\.\.\., 4\)"):
        unitary_twiddle(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="twiddle must have shape"):
        rotation_angles(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="twiddle must be real"):
        rotation_angles(np.zeros((2, 2), np.complex64))
    with pytest.raises(ValueError, match="twiddle must have shape"):
        unitary_angles(np.zeros((2,), np.float32))

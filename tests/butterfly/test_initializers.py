"""Initializers: shapes, dtypes, moments, orthogonality, the Haar measure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.butterfly import butterfly_to_dense, initializers, twiddle_shape

SHAPE = (4096, 2, 2)
ALL = (initializers.gaussian, initializers.orthogonal, initializers.identity)


def draw(init, seed, dtype="float32"):
    """Many blocks, as NumPy values."""
    return np.asarray(jax.jit(init, static_argnums=(1, 2))(jax.random.key(seed), SHAPE, dtype))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "bfloat16"])
@pytest.mark.parametrize("init", ALL)
def test_shape_and_dtype(init, dtype):
    values = init(jax.random.key(0), (2, 3, 2, 2), dtype)
    assert values.shape == (2, 3, 2, 2)
    assert values.dtype == dtype
    assert init(jax.random.key(0), (1, 1, 0, 0, 2, 2)).shape == (1, 1, 0, 0, 2, 2)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("init", ALL)
def test_columns_have_unit_second_moment(init, dtype):
    blocks = draw(init, 1, dtype)
    moment = np.einsum("bji,bjk->ik", blocks.conj(), blocks) / len(blocks)
    # five standard errors of a mean of 4096
    np.testing.assert_allclose(moment, np.eye(2), atol=5 * np.sqrt(1 / 4096))


def test_gaussian_variances():
    real = draw(initializers.gaussian, 2)
    assert abs(real.mean()) < 0.03
    assert abs(real.var() - 0.5) < 0.03
    values = draw(initializers.gaussian, 2, "complex64")
    for part in (values.real, values.imag):
        assert abs(part.mean()) < 0.03
        assert abs(part.std() - 0.5) < 0.02
    assert abs((values.real * values.imag).mean()) < 0.02


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_orthogonal_blocks_make_orthogonal_butterflies(dtype):
    blocks = draw(initializers.orthogonal, 3, dtype)
    gram = np.einsum("bji,bjk->bik", blocks.conj(), blocks)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=5e-7)

    @jax.jit
    def random_butterfly(key):
        twiddle = initializers.orthogonal(key, twiddle_shape(64, blocks=2), dtype)
        return butterfly_to_dense(twiddle)

    dense = np.asarray(random_butterfly(jax.random.key(3)))
    np.testing.assert_allclose(dense.conj().T @ dense, np.eye(64), atol=3e-6)


def test_orthogonal_real_blocks_are_haar():
    blocks = draw(initializers.orthogonal, 4)
    determinant = np.linalg.det(blocks)
    np.testing.assert_allclose(np.abs(determinant), 1, atol=1e-6)
    assert abs((determinant > 0).mean() - 0.5) < 0.04
    angles = np.arctan2(blocks[:, 1, 0], blocks[:, 0, 0])
    counts, _ = np.histogram(angles, bins=8, range=(-np.pi, np.pi))
    assert (np.abs(counts - 512) < 5 * np.sqrt(512)).all()


def test_orthogonal_complex_blocks_are_haar():
    blocks = draw(initializers.orthogonal, 5, "complex64")
    # for Haar U(2), |t00|^2 is uniform in [0, 1] and every phase is
    counts, _ = np.histogram(np.abs(blocks[:, 0, 0]) ** 2, bins=8, range=(0, 1))
    assert (np.abs(counts - 512) < 5 * np.sqrt(512)).all()
    for values in (blocks[:, 0, 0], blocks[:, 0, 1], blocks[:, 1, 0], np.linalg.det(blocks)):
        counts, _ = np.histogram(np.angle(values), bins=8, range=(-np.pi, np.pi))
        assert (np.abs(counts - 512) < 5 * np.sqrt(512)).all()
    # E[|tr U|^2] = 1 and E[|tr U|^4] = 2 for Haar measure on U(2)
    trace = np.abs(np.trace(blocks, axis1=1, axis2=2))
    assert abs((trace**2).mean() - 1) < 0.08
    assert abs((trace**4).mean() - 2) < 0.3


def test_identity_is_the_identity():
    for tied in (True, False):
        twiddle = initializers.identity(jax.random.key(0), twiddle_shape(16, tied=tied))
        np.testing.assert_array_equal(jax.jit(butterfly_to_dense)(twiddle), np.eye(16))


def test_keys_decide_and_jit_agrees():
    for init in ALL[:2]:
        first = init(jax.random.key(0), (3, 2, 2))
        np.testing.assert_array_equal(first, init(jax.random.key(0), (3, 2, 2)))
        assert not np.array_equal(first, init(jax.random.key(1), (3, 2, 2)))
        jitted = jax.jit(init, static_argnums=(1,))(jax.random.key(0), (3, 2, 2))
        np.testing.assert_allclose(jitted, first, atol=1e-6)


@pytest.mark.parametrize("init", ALL)
def test_bad_arguments_are_refused(init):
    with pytest.raises(ValueError, match=r"shape must end in \(2, 2\), got \(3, 2\)"):
        init(jax.random.key(0), (3, 2))
    with pytest.raises(TypeError, match="dtype must be floating point or complex, got int32"):
        init(jax.random.key(0), (2, 2), jnp.int32)

"""Spherical harmonics: e3nn's convention, orthonormality, poles, high degrees, bad input."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.harmonics import (
    degrees_of,
    fourier_factors,
    legendre_factors,
    orders_of,
    spherical_harmonics,
)


def test_equal_to_e3nn(rng):
    points = rng.standard_normal((20, 3))
    with jax.enable_x64(True):
        wanted = e3nn.spherical_harmonics(
            e3nn.s2_irreps(6), jnp.asarray(points), normalize=True, normalization="integral"
        ).array
    np.testing.assert_allclose(spherical_harmonics(6, points), wanted, atol=1e-12)


def test_addition_theorem_up_to_degree_60(rng):
    """Squares of a degree sum to (2 l + 1) / 4 pi at every point, poles included."""
    points = np.concatenate([rng.standard_normal((9, 3)), np.eye(3), -np.eye(3)])
    squares = spherical_harmonics(60, points) ** 2
    sums = np.add.reduceat(squares, np.arange(61) ** 2, axis=1)
    np.testing.assert_allclose(
        sums, np.tile((2 * np.arange(61) + 1) / (4 * np.pi), (15, 1)), rtol=1e-12
    )


def test_legendre_factors_are_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(21)
    table = legendre_factors(20, nodes)
    for m in range(21):
        gram = np.einsum("n,nl,nk->lk", weights, table[:, m:, m], table[:, m:, m])
        np.testing.assert_allclose(gram, np.eye(21 - m), atol=1e-13)


def test_fourier_factors_are_orthonormal():
    alpha = 2 * np.pi * np.arange(13) / 13 + 0.3
    table = fourier_factors(6, alpha)
    np.testing.assert_allclose(table.T @ table * 2 * np.pi / 13, np.eye(13), atol=1e-14)


def test_indices():
    degrees, orders = degrees_of(5), orders_of(5)
    assert np.array_equal(degrees**2 + degrees + orders, np.arange(36))


def test_no_points():
    assert spherical_harmonics(2, np.zeros((0, 3))).shape == (0, 9)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"points must have shape \(N, 3\), got \(3,\)"):
        spherical_harmonics(1, np.ones(3))
    with pytest.raises(ValueError, match="finite and not zero"):
        spherical_harmonics(1, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="finite and not zero"):
        spherical_harmonics(1, np.array([[1, np.inf, 0]]))
    with pytest.raises(ValueError, match=r"cos_beta must be \(N,\) in \[-1, 1\]"):
        legendre_factors(1, [1.5])
    with pytest.raises(ValueError, match="lmax must be at least 0, got -1"):
        fourier_factors(-1, [0.0])

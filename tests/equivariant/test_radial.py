"""Radial functions: closed forms, zeros, smoothness, orthogonality, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.ops.radial import (
    bessel_basis,
    gaussian_basis,
    polynomial_cutoff,
)
from structlayers.testing import error_ratio


@pytest.mark.parametrize("p", [3, 5, 6])
def test_cutoff_is_smooth_at_both_ends(p):
    """Value and two derivatives at zero and at the cutoff, in float64, from both sides."""

    def cutoff(r):
        return polynomial_cutoff(r, 2.5, p=p)

    with jax.enable_x64(True):
        for r, value in ((0.0, 1), (2.5, 0), (3.0, 0)):
            point = jnp.float64(r)
            assert abs(cutoff(point) - value) < 1e-14
            assert abs(jax.grad(cutoff)(point)) < 1e-13
            assert abs(jax.grad(jax.grad(cutoff))(point)) < 1e-12
        below = np.asarray(jax.vmap(jax.grad(jax.grad(cutoff)))(jnp.linspace(2.49, 2.5, 5)))
        assert np.all(np.abs(below) <= 60 * p**3 * (2.5 - np.linspace(2.49, 2.5, 5)) + 1e-12)


def test_bessel_functions_are_orthonormal():
    """Under r^2 dr on (0, cutoff), and zero at the cutoff."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, w = 1.5 * (nodes + 1), 1.5 * weights
    with jax.enable_x64(True):
        basis = np.asarray(bessel_basis(jnp.asarray(r), 8, 3.0))
        at_cutoff = bessel_basis(jnp.float64(3.0), 8, 3.0)
    np.testing.assert_allclose(basis.T @ (basis * (w * r**2)[:, None]), np.eye(8), atol=1e-12)
    np.testing.assert_allclose(at_cutoff, 0, atol=1e-14)
    wanted = np.sqrt(2 / 3) * np.sin(np.arange(1, 9) * np.pi * r[:, None] / 3) / r[:, None]
    assert error_ratio(basis, wanted) < 1e-14


def test_bessel_functions_at_zero():
    """Atoms on top of each other: finite values, and derivatives of zero."""
    values, first = jax.jvp(lambda r: bessel_basis(r, 4, 2.0), (jnp.zeros(3),), (jnp.ones(3),))
    np.testing.assert_allclose(values[0], np.pi / 2 * np.arange(1, 5), rtol=1e-6)
    np.testing.assert_array_equal(first, 0)
    second = jax.jacfwd(jax.jacfwd(lambda r: bessel_basis(r, 4, 2.0)))(jnp.float32(0))
    assert np.all(np.isfinite(second))


def test_gaussians():
    r = np.linspace(0, 6, 7, dtype=np.float32)
    basis = np.asarray(gaussian_basis(r, 6, 5.0, start=0.5, width=0.7))
    centres = 0.5 + 4.5 / 5 * np.arange(6)
    assert error_ratio(basis, np.exp(-((r[:, None] - centres) ** 2) / (2 * 0.49))) < 1e-6
    assert basis.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: polynomial_cutoff(r, 0.0), ValueError, "cutoff must be positive, got 0.0"),
        (lambda r: polynomial_cutoff(r, 1.0, p=0), ValueError, "p must be at least 1, got 0"),
        (lambda r: bessel_basis(r, 0, 1.0), ValueError, "num_basis must be at least 1, got 0"),
        (
            lambda r: bessel_basis(r > 0, 2, 1.0),
            TypeError,
            "r must be real floating point, got bool",
        ),
        (lambda r: gaussian_basis(r, 1, 1.0), ValueError, "num_basis must be at least 2"),
        (lambda r: gaussian_basis(r, 3, 1.0, start=2.0), ValueError, "start below the cutoff"),
        (lambda r: gaussian_basis(r, 3, 1.0, width=0.0), ValueError, "width must be positive"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.ones(3))

"""Exact 3j symbols and coupling tensors against e3nn, sums rules, and integrals over the sphere."""

import math

import e3nn_jax as e3nn
import numpy as np
import pytest

from structlayers.equivariant.harmonics import degree_slices, spherical_harmonics
from structlayers.equivariant.wigner import (
    clebsch_gordan,
    couples,
    gaunt,
    gaunt_factor,
    wigner_3j,
)


def _triples(lmax: int) -> list[tuple[int, int, int]]:
    degrees = range(lmax + 1)
    return [(a, b, c) for a in degrees for b in degrees for c in degrees if couples(a, b, c)]


def _sphere(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights, exact for polynomials up to a degree."""
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    alpha = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    sine = np.sqrt(1 - nodes**2)
    points = [
        (s * np.sin(a), y, s * np.cos(a)) for y, s in zip(nodes, sine, strict=True) for a in alpha
    ]
    return np.array(points), np.repeat(weights, degree + 1) * 2 * np.pi / (degree + 1)


def test_symbols_of_textbooks():
    assert wigner_3j(1, 1, 2, 0, 0, 0) == pytest.approx(math.sqrt(2 / 15), rel=1e-15)
    assert wigner_3j(2, 2, 2, 0, 0, 0) == pytest.approx(-math.sqrt(2 / 35), rel=1e-15)
    assert wigner_3j(1, 1, 1, 1, -1, 0) == pytest.approx(math.sqrt(1 / 6), rel=1e-15)
    assert wigner_3j(2, 1, 1, 0, 1, 0) == 0.0
    assert wigner_3j(1, 1, 3, 0, 0, 0) == 0.0


@pytest.mark.parametrize(("l1", "l2"), [(2, 3), (8, 5), (20, 20)])
def test_symbols_are_orthogonal(l1, l2):
    """Sum over m1, m2 of (2 l3 + 1) 3j 3j' is 1 for equal l3 and 0 for others."""
    pairs = [(m1, m2) for m1 in range(-l1, l1 + 1) for m2 in range(-l2, l2 + 1) if m1 + m2 == 1]
    thirds = range(max(abs(l1 - l2), 1), l1 + l2 + 1)
    table = np.array(
        [[math.sqrt(2 * c + 1) * wigner_3j(l1, l2, c, *p, -1) for p in pairs] for c in thirds]
    )
    np.testing.assert_allclose(table @ table.T, np.eye(len(table)), atol=1e-14)


def test_coupling_tensors_equal_those_of_e3nn():
    for triple in _triples(4):
        # e3nn solves for them numerically, in float64
        np.testing.assert_allclose(
            clebsch_gordan(*triple), e3nn.clebsch_gordan(*triple), atol=1e-10, err_msg=str(triple)
        )


def test_coupling_tensors_have_norm_one():
    for triple in _triples(7):
        assert np.sum(clebsch_gordan(*triple) ** 2) == pytest.approx(1, abs=1e-14)


def test_uncoupled_degrees_give_zero():
    assert clebsch_gordan(1, 1, 3).shape == (3, 3, 7)
    assert not np.any(clebsch_gordan(1, 1, 3))


def test_gaunt_tensors_are_integrals_over_the_sphere():
    lmax = 8
    points, weights = _sphere(3 * lmax)
    harmonics = spherical_harmonics(lmax, points)
    blocks = [harmonics[:, s] for s in degree_slices(lmax)]
    for a, b, c in _triples(lmax):
        if a <= b <= c:
            integral = np.einsum(
                "n,ni,nj,nk->ijk", weights, blocks[a], blocks[b], blocks[c], optimize=True
            )
            np.testing.assert_allclose(gaunt(a, b, c), integral, atol=1e-13, err_msg=f"{a, b, c}")


def test_gaunt_factor_is_positive_for_even_sums_only():
    for triple in _triples(8):
        assert (gaunt_factor(*triple) > 0) == (sum(triple) % 2 == 0)


def test_tables_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        clebsch_gordan(1, 1, 0)[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        gaunt(1, 1, 0)[0, 0, 0] = 1


def test_bad_degrees_are_refused():
    with pytest.raises(ValueError, match="l2 must be at least 0, got -1"):
        wigner_3j(1, -1, 1, 0, 0, 0)

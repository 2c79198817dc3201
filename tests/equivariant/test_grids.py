"""Grids: exactness, sharpness of the rules, symmetry, refusals; tables and Fourier series."""

import numpy as np
import pytest

from structlayers.equivariant import SphericalGrid, spherical_harmonics, tables
from structlayers.equivariant.designs import design_size, spherical_design
from structlayers.equivariant.fourier import from_torus, to_torus
from structlayers.equivariant.grids import KINDS, LEBEDEV_DEGREES, get_grid


@pytest.mark.parametrize("kind", KINDS)
def test_products_up_to_the_degree_are_orthonormal(kind):
    for degree in (0, 1, 4, 7, 12):
        grid = get_grid(kind, degree)
        table = spherical_harmonics(degree // 2, grid.points)
        gram = table.T @ (grid.weights[:, None] * table)
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)
        assert np.sum(grid.weights) == pytest.approx(4 * np.pi, rel=1e-13)


def test_sizes_of_the_rules():
    sizes = {kind: [len(get_grid(kind, t).weights) for t in (4, 8, 12)] for kind in KINDS}
    assert sizes == {
        "gauss_legendre": [15, 45, 91],
        "equiangular": [25, 81, 169],
        "design": [14, 42, 86],
        "lebedev": [14, 38, 74],
    }


def test_the_fewest_points():
    """Of all grids but those of large weights, for all of their points and for opposite pairs."""
    sizes = {t: len(get_grid(None, t).weights) for t in (0, 1, 2, 8, 9, 12, 18, 24, 30, 40)}
    assert sizes == {0: 1, 1: 2, 2: 6, 8: 38, 9: 38, 12: 86, 18: 146, 24: 266, 30: 350, 40: 590}
    for degree in (*range(9), 11, 14):
        for antipodal in (False, True):
            found = len(get_grid(None, degree, antipodal=antipodal).weights)
            for kind in KINDS:
                assert found <= len(get_grid(kind, degree, antipodal=antipodal).weights)
    assert get_grid(None, 17).degree == 17
    assert get_grid(None, 18) is get_grid(None, 19) is get_grid("lebedev", 19)


def test_no_rule_of_large_weights_has_the_fewest_points():
    """Negative weights are exact too, but sums of larger terms round more."""
    sums = {t: np.sum(np.abs(get_grid("lebedev", t).weights)) / (4 * np.pi) for t in range(3, 48)}
    large = {t for t, size in sums.items() if size > 1.1}
    assert large == {12, 13, 24, 25}
    for degree in range(3, 48):
        weights = get_grid(None, degree).weights
        assert np.sum(np.abs(weights)) < 1.1 * 4 * np.pi
        assert (len(weights) == len(get_grid("lebedev", degree).weights)) == (degree not in large)


@pytest.mark.parametrize("degree", LEBEDEV_DEGREES[:17])
def test_lebedev_rules_are_exact_to_no_more_than_their_degree(degree):
    grid = get_grid("lebedev", degree)
    assert grid.degree == degree
    with pytest.raises(ValueError, match=f"degree {degree + 1} is off by"):
        SphericalGrid(grid.points, grid.weights, degree + 1)


def test_no_lebedev_rule_beyond_131():
    with pytest.raises(ValueError, match=r"lebedev is exact to degree 131 at most, .* T = 132"):
        SphericalGrid.lebedev(132)
    with pytest.raises(ValueError, match="degree must be at least 0, got -1"):
        SphericalGrid.lebedev(-1)


@pytest.mark.slow
def test_beyond_the_largest_rule():
    assert len(get_grid(None, 131).weights) == 5810
    assert len(get_grid(None, 132).weights) == 67 * 133


@pytest.mark.parametrize("degree", [1, 2, 5, 12, 13])
def test_one_point_fewer_is_refused(degree):
    beta = degree // 2 + 1
    with pytest.raises(ValueError, match=rf"num_beta >= {beta} = ceil\(\(T \+ 1\) / 2\)"):
        SphericalGrid.gauss_legendre(degree, num_beta=beta - 1 or None, num_alpha=degree)
    with pytest.raises(ValueError, match=rf"num_alpha >= {degree + 1} = T \+ 1, got .* {degree}$"):
        SphericalGrid.gauss_legendre(degree, num_alpha=degree)
    beta = 2 * (degree // 2) + 1
    with pytest.raises(ValueError, match=rf"num_beta >= {beta} = 2 floor\(T / 2\) \+ 1"):
        SphericalGrid.equiangular(degree, num_beta=beta - 1 or None, num_alpha=degree)


@pytest.mark.parametrize("degree", [2, 5, 12])
def test_the_rules_are_sharp(degree):
    """Grids of one point fewer in either direction do not pass the proof as exact either."""
    smaller = (
        SphericalGrid.gauss_legendre(degree - 2, num_alpha=degree + 1),
        SphericalGrid.equiangular(degree - 2, num_alpha=degree + 1),
        SphericalGrid.gauss_legendre(degree - 1, num_beta=degree, num_alpha=degree),
    )
    for grid in smaller:
        with pytest.raises(ValueError, match=f"does not integrate harmonics up to degree {degree}"):
            SphericalGrid(grid.points, grid.weights, degree)


def test_more_points_than_needed_are_exact():
    for num_beta in (7, 8, 9, 12):
        assert SphericalGrid.gauss_legendre(12, num_beta=num_beta, num_alpha=15).degree == 12
    for num_beta in (13, 14, 15):
        assert len(SphericalGrid.equiangular(12, num_beta=num_beta).weights) == 13 * num_beta


def test_own_points_are_proved():
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    weights = np.full(6, 4 * np.pi / 6)
    assert SphericalGrid(octahedron, weights, 3).opposites is not None
    with pytest.raises(
        ValueError, match=r"6 points does not integrate .* degree 4: degree 4 is off"
    ):
        SphericalGrid(octahedron, weights, 4)
    with pytest.raises(ValueError, match=r"degree 0 is off by 3\.5e"):
        SphericalGrid(octahedron, 2 * weights, 0)
    with pytest.raises(ValueError, match="points must be unit vectors"):
        SphericalGrid(2 * octahedron, weights, 1)
    with pytest.raises(ValueError, match=r"shapes \(N, 3\) and \(N,\), got \(6, 3\) and \(5,\)"):
        SphericalGrid(octahedron, weights[:5], 1)
    with pytest.raises(ValueError, match="degree must be at least 0, got -1"):
        SphericalGrid.gauss_legendre(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_opposites(kind):
    for degree in (0, 3, 6):
        grid = get_grid(kind, degree, antipodal=True)
        assert grid.opposites is not None
        first, second = grid.opposites
        np.testing.assert_allclose(grid.points[first], -grid.points[second], atol=1e-12)
        assert sorted([*first, *second]) == list(range(len(grid.weights)))
    assert get_grid("gauss_legendre", 2).opposites is None


def test_arrays_are_read_only_and_grids_made_once():
    grid = get_grid("equiangular", 3)
    assert grid is get_grid("equiangular", 3)
    with pytest.raises(ValueError, match="read-only"):
        grid.points[0, 0] = 1


@pytest.mark.parametrize("degree", [7, 10, 11])
def test_designs(degree):
    points = spherical_design(degree)
    assert design_size(degree) <= len(points) <= design_size(degree) + 2
    moments = spherical_harmonics(degree, points).mean(axis=0)
    np.testing.assert_allclose(moments[1:], 0, atol=1e-13)


def test_tables_refuse_grids_that_do_not_fit():
    with pytest.raises(ValueError, match="do not come in opposite pairs"):
        tables.to_half_grid(get_grid("gauss_legendre", 2), 1)
    with pytest.raises(ValueError, match="no product of polar angles and azimuths"):
        tables.fourier_table(get_grid("design", 3), 1)


def test_fourier_series_of_harmonics(rng):
    """Evaluated as trigonometric polynomials; integrals by nodes in the angle."""
    lmax, bandwidth = 5, 7

    def waves(largest, *angles):
        return [np.exp(1j * a[:, None] * np.arange(-largest, largest + 1)) for a in angles]

    beta, alpha = rng.uniform(0, np.pi, 6), rng.uniform(0, 2 * np.pi, 6)
    series = np.einsum("kuv,nu,nv->nk", to_torus(lmax), *waves(lmax, beta, alpha))
    sine = np.sin(beta)
    points = np.stack([sine * np.sin(alpha), np.cos(beta), sine * np.cos(alpha)], axis=1)
    np.testing.assert_allclose(series, spherical_harmonics(lmax, points), atol=1e-13)

    nodes, weights = np.polynomial.legendre.leggauss(60)
    beta, alpha = (nodes + 1) * np.pi / 2, 2 * np.pi * np.arange(32) / 32
    sine = np.sin(beta)
    grid = np.stack(
        [
            np.outer(sine, np.sin(alpha)),
            np.outer(np.cos(beta), np.ones(32)),
            np.outer(sine, np.cos(alpha)),
        ],
        axis=-1,
    )
    harmonics = spherical_harmonics(lmax, grid.reshape(-1, 3)).reshape(60, 32, -1)
    measure = weights * np.pi / 2 * sine * 2 * np.pi / 32
    around = waves(bandwidth, beta, alpha)
    integrals = np.einsum("b,bu,av,bak->uvk", measure, *around, harmonics, optimize=True)
    np.testing.assert_allclose(from_torus(bandwidth, lmax), integrals, atol=1e-12)

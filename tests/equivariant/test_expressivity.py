"""Measured expressivity: known products, products that hide something, wrong ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from structlayers.equivariant.expressivity import expressivity_report, setting_degrees
from structlayers.equivariant.ops.clebsch_gordan import clebsch_gordan_tensor_product
from structlayers.equivariant.ops.gaunt import gaunt_tensor_product
from structlayers.equivariant.paths import count_paths, tensor_product_paths

MIMO = setting_degrees("mimo", 1)


def gaunt(weights, x, y):
    return gaunt_tensor_product(x, y, weights=weights, lmax=len(weights[2]) - 1)


def weights(*degrees):
    return tuple(jnp.zeros(degree + 1) for degree in degrees)


def test_clebsch_gordan_has_every_path():
    degrees = setting_degrees("mimo", 2)
    paths = tensor_product_paths(*degrees)
    report = expressivity_report(
        lambda w, x, y: clebsch_gordan_tensor_product(x, y, weights=w),
        jnp.zeros(len(paths)),
        *degrees,
    )
    assert report.paths == report.interactions == paths
    assert report.degrees_of_freedom == report.span == count_paths(2) == 19
    assert report.remainder < 1e-14


@pytest.mark.parametrize(
    ("setting", "lmax", "interactions", "freedom"),
    [
        ("siso", 1, 0, 0),
        ("siso", 2, 1, 1),
        ("simo", 2, 3, 3),
        ("mimo", 1, 5, 5),
        ("mimo", 2, 14, 9),
    ],
)
def test_gaunt(setting, lmax, interactions, freedom):
    """Published: 4 L + 1 degrees of freedom in the setting MIMO; natural paths alone."""
    degrees = setting_degrees(setting, lmax)
    report = expressivity_report(gaunt, weights(*map(max, degrees)), *degrees)
    assert len(report.interactions) == report.span == interactions
    assert all(sum(path) % 2 == 0 for path in report.interactions)
    assert report.degrees_of_freedom == freedom
    if setting == "mimo":
        assert interactions == count_paths(lmax, "even")
        assert freedom == 4 * lmax + 1


def test_weights_that_do_nothing_do_not_count():
    report = expressivity_report(
        lambda w, x, y: w[0] * w[1] * gaunt_tensor_product(x, y), (jnp.zeros(()),) * 2, *MIMO
    )
    assert (report.degrees_of_freedom, report.span, len(report.interactions)) == (1, 1, 5)


def test_a_product_without_weights_has_no_freedom():
    report = expressivity_report(lambda w, x, y: gaunt_tensor_product(x, y), (), *MIMO)
    assert (report.degrees_of_freedom, report.span) == (0, 1)


def test_a_product_that_is_not_equivariant_leaves_a_remainder():
    scale = np.diag([1.0, 1.0, 2.0, 1.0])
    report = expressivity_report(lambda w, x, y: gaunt(w, x @ scale, y), weights(1, 1, 2), *MIMO)
    assert report.remainder > 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="setting must be one of 'siso', 'simo', 'mimo'"):
        setting_degrees("miso", 1)
    with pytest.raises(ValueError, match="lmax must be at least 0, got -1"):
        setting_degrees("siso", -1)


def test_ranks_without_a_gap_are_refused():
    """A second weight that matters by 3e-9 is neither there nor not there."""
    scale = 3e-9 * np.diag([0.0, 1.0, 1.0, 1.0])

    def product(w, x, y):
        return gaunt_tensor_product(w[0] * x + w[1] * (x @ scale), y)

    with pytest.raises(ArithmeticError, match="is neither zero nor not"):
        expressivity_report(product, (jnp.zeros(()), jnp.zeros(())), *MIMO)


@pytest.mark.parametrize(
    "product",
    [
        lambda weights, x, y: gaunt_tensor_product(jnp.sin(x), y),
        lambda weights, x, y: gaunt_tensor_product(x, y) ** 2,
        lambda weights, x, y: gaunt_tensor_product(x, y) + 1.0,
    ],
)
def test_what_is_not_bilinear_is_refused(product):
    with pytest.raises(ValueError, match="product must be linear in x and in y: off by"):
        expressivity_report(product, (), (0, 1), (0, 1), (0, 1))


def test_degrees_and_shapes_that_do_not_fit():
    def product(weights, x, y):
        return gaunt_tensor_product(x, y, lmax=1)

    with pytest.raises(ValueError, match=r"product must return \(16, 9\) or more.*got \(16, 4\)"):
        expressivity_report(product, (), (0, 1), (0, 1), (0, 1, 2))
    for degrees in ((), (0, -1), (1, 1)):
        with pytest.raises(ValueError, match="degrees2 must differ and be at least 0"):
            expressivity_report(product, (), (0, 1), degrees, (0, 1))

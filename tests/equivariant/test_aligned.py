"""Grids in aligned rows, as on GPUs: values, derivatives, shapes of all products."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.equivariant import gaunt_tensor_product, many_body_product
from structlayers.equivariant.grids import get_grid
from structlayers.equivariant.tables import dense_gaunt
from structlayers.equivariant.xla import transforms
from structlayers.testing import error_ratio
from tests.equivariant.cases import signal

LAWS = [(0, 0, 0), (1, 1, 2), (3, 2, 1), (2, 2, 4), (3, 3, 3)]
DOT = re.compile(r"dot_general.*: \(tensor<([\dx]+)xb?f\d+>, tensor<([\dx]+)xb?f\d+>\)")


NAMES = ("xla", "antipodal")


@pytest.fixture
def on_gpu():
    """What is traced is meant for a GPU; what runs runs here."""
    with assume_platform("gpu"):
        yield


@pytest.fixture
def aligned(on_gpu, monkeypatch):
    """Small grids, too."""
    monkeypatch.setattr(transforms, "_ALIGNED_FROM", 0)


def product(x, y, lmax=None, name="antipodal", **options):
    return gaunt_tensor_product(x, y, lmax=lmax, implementation=name, **options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("xla", kind) for kind in (None, "design")),
        *(("antipodal", kind) for kind in (None, "gauss_legendre", "design")),
    ],
)
def test_equal_to_exact_coefficients(name, kind, rng, aligned):
    with jax.enable_x64(True):
        for l1, l2, l3 in LAWS:
            x, y = signal(rng, 3, lmax=l1), signal(rng, 3, lmax=l2)
            wanted = np.einsum("bi,bj,ijk->bk", x, y, dense_gaunt(l1, l2, l3))
            np.testing.assert_allclose(product(x, y, l3, name, grid=kind), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("lead", "kind"),
    [
        (((5,), (5,)), "xla"),
        (((5,), (5,)), "antipodal"),
        (((5, 1), (1, 3)), "antipodal"),
    ],
    ids=["xla", "antipodal", "broadcast"],
)
def test_derivatives_of_any_order(lead, kind, rng, aligned):
    with jax.enable_x64(True):
        x, y = (signal(rng, *rows, lmax=1) for rows in lead)

        def energy(name):
            return lambda x, y: jnp.sum(
                gaunt_tensor_product(x, y, lmax=2, implementation=name) ** 3
            )

        def force(name):
            return lambda x, y: jnp.sum(jax.grad(energy(name))(x, y) ** 2)

        for make in (energy, force):
            found, wanted = (
                jax.jit(jax.grad(make(name), argnums=(0, 1)))(x, y) for name in (kind, "reference")
            )
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
        ones = (jnp.ones_like(x), jnp.ones_like(y))
        tangents = [
            jax.jit(lambda *at, name=name: jax.jvp(energy(name), at, ones)[1])(x, y)
            for name in (kind, "reference")
        ]
        np.testing.assert_allclose(*tangents, rtol=1e-10)


@pytest.mark.parametrize("kind", NAMES)
def test_powers(kind, rng, aligned):
    x = signal(rng, 3, lmax=2)
    with jax.enable_x64(True):
        found, wanted = (
            many_body_product(x, order=3, lmax=2, implementation=name)
            for name in (kind, "reference")
        )
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("precision", "bound"), [("tf32", 1e-3), ("3xtf32", 1e-6), ("bf16", 8e-3), ("highest", 3e-7)]
)
def test_precisions(precision, bound, rng, aligned):
    x, y = (signal(rng, 50, lmax=4).astype(np.float32) for _ in range(2))
    wanted = np.einsum("bi,bj,ijk->bk", x, y, dense_gaunt(4, 4, 8))
    # products that tensor cores round run in float32 here, of operands that are rounded already
    assert error_ratio(np.asarray(product(x, y, precision=precision)), wanted) < bound


@pytest.mark.parametrize(("name", "products"), [("xla", 2), ("antipodal", 4)])
@pytest.mark.parametrize(("precision", "multiple"), [("tf32", 4), ("highest", 4), ("bf16", 8)])
def test_every_product_has_rows_of_16_bytes(name, products, precision, multiple, on_gpu):
    """And there is one to the grid for both signals together, or one for each parity."""
    x = jax.ShapeDtypeStruct((24, 121), "float32")

    def sizes(function):
        traced = jax.jit(function).trace(x, x)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        found = DOT.findall(text)
        assert len(found) == text.count("stablehlo.dot_general")
        return [int(n) for pair in found for shape in pair for n in shape.split("x")[-2:]]

    forward = sizes(lambda x, y: product(x, y, name=name, precision=precision))
    assert len(forward) == 4 * products
    assert all(size % multiple == 0 for size in forward)

    def total(x, y):
        return jnp.sum(product(x, y, name=name, precision=precision) ** 2)

    assert all(size % multiple == 0 for size in sizes(jax.grad(total, argnums=(0, 1))))


@pytest.mark.parametrize("name", NAMES)
def test_infinities_stay_in_their_rows(name, rng, aligned):
    """What fills up is zero and meets nothing else."""
    x, y = (signal(rng, 3, lmax=2).astype(np.float32) for _ in range(2))
    clean = np.asarray(product(x, y, name=name))
    x[1, 0] = np.inf
    found = np.asarray(product(x, y, name=name))
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])
    assert not np.any(np.isfinite(found[1]))


def test_small_grids_and_other_platforms_are_left_as_they_are():
    grid = get_grid("gauss_legendre", 18, antipodal=True)
    small = get_grid("gauss_legendre", 17, antipodal=True)
    with assume_platform("gpu"):
        assert transforms.OneShot(grid, "tf32").multiple == 4
        assert transforms.OneShot(small, "tf32").multiple == 1
        assert transforms.Separable(grid, "tf32").multiple == 1
    assert transforms.OneShot(grid, "tf32").multiple == 1

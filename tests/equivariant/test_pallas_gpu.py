"""The kernel for Hopper GPUs, simulated on NumPy: products, powers, gradients, launches."""

import dataclasses

import jax
import numpy as np
import pytest

from structlayers.equivariant.half_grid import half_grid
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.pallas_gpu.groups import groups
from structlayers.equivariant.pallas_gpu.plan import SHARED_BYTES, Problem, choose_plan
from structlayers.equivariant.pallas_gpu.program import program
from structlayers.equivariant.pallas_gpu.split import split_problem
from structlayers.equivariant.pallas_gpu.tables import table_words
from structlayers.equivariant.pointwise import (
    Product,
    Term,
    largest_degree,
    powers,
    product_of,
    pulled_back,
)
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate
from tests.equivariant.kernel_cases import (
    BOUNDS,
    DTYPES,
    FORWARD,
    NATURAL,
    exact,
    exact_product,
    random_rows,
)


def filled(x, layout):
    """Rows that tiles share, filled up."""
    missing = layout.pitch // x.itemsize - x.shape[1] if layout.shared else 0
    return np.pad(x, ((0, 0), (0, missing)))


def simulated(arrays, products, mode, repeats=None):
    """What one launch gives, by two warps so that they have several tiles."""
    rows, degrees = len(arrays[0]), tuple(largest_degree(x.shape[1]) for x in arrays)
    problem = Problem(rows, degrees, products, arrays[0].itemsize, mode, repeats)
    plan = dataclasses.replace(choose_plan(problem), warps=2, most_blocks=1)
    return simulate(
        program(plan),
        [table_words(problem), *map(filled, arrays, plan.inputs)],
        [jax.ShapeDtypeStruct((rows, (p.degree + 1) ** 2), arrays[0].dtype) for p in products],
        clusters=plan.blocks,
        cluster_size=1,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 6, 9, 12, 18, 24])
def test_half_a_grid_integrates_what_it_should(degree):
    points, weights = half_grid(degree)
    both = np.concatenate([points, -points])
    values = spherical_harmonics(degree + 1, both)
    integrals = np.concatenate([weights, weights]) / 2 @ values
    wanted = np.zeros(len(integrals))
    wanted[0] = (4 * np.pi) ** 0.5
    size = (degree + 1) ** 2
    assert np.abs(integrals - wanted)[:size].max() <= 1e-12
    # no grid of fewer points was taken for exact: the next degree is wrong, unless odd and free
    if degree % 2:
        assert np.abs(integrals[size:]).max() >= 1e-3


@pytest.mark.parametrize("lmax", range(1, 9))
def test_groups_hold_every_coefficient_of_a_parity(lmax):
    for parity in (0, 1):
        for multiple in (1, 2, 4):
            found = groups(lmax, parity, multiple)
            degrees = range(parity, lmax + 1, 2)
            wanted = {i for n in degrees for i in range(n**2, (n + 1) ** 2)}
            assert {i for group in found for i in group} == wanted
            assert len(found) % multiple == 0


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize(
    "lmax",
    [pytest.param(n, marks=[pytest.mark.slow] if n in (5, 7, 9) else []) for n in range(1, 10)],
)
def test_simulated_kernel_gives_the_product(lmax, mode, dtype):
    # two tiles of 32 rows or four of 16 for each warp, and one that is not full
    x, y = (random_rows(seed, 133, lmax, dtype) for seed in (0, 1))
    (z,) = simulated([x, y], (product_of(FORWARD, lmax),), mode)
    assert z.dtype == DTYPES[dtype]
    assert error_ratio(z.astype(np.float64), exact(x, y, lmax)) <= BOUNDS[mode]


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("degrees", [(1, 2, 3), (3, 2, 1), (4, 4, 8), (2, 4, 5), (8, 8, 2)])
def test_simulated_kernel_serves_other_degrees_and_few_rows(degrees, rows):
    l1, l2, l3 = degrees
    for mode, dtype in [*NATURAL, ("bf16", "float32"), ("tf32", "bfloat16")]:
        x, y = random_rows(2, rows, l1, dtype), random_rows(3, rows, l2, dtype)
        (z,) = simulated([x, y], (product_of(FORWARD, l3),), mode)
        bound = max(BOUNDS[mode], BOUNDS["bf16"] if dtype == "bfloat16" else 0)
        assert error_ratio(z.astype(np.float64), exact(x, y, l3)) <= bound, mode


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize("degrees", [(2, 2, 2), (4, 4, 4), (3, 1, 4), (6, 6, 6)])
def test_simulated_kernel_gives_two_products_at_once(degrees, mode, dtype):
    x, y, dz = (random_rows(n, 71, degree, dtype) for n, degree in enumerate(degrees))
    products = (product_of((1, 2), degrees[0]), product_of((0, 2), degrees[1]))
    dx, dy = simulated([x, y, dz], products, mode)
    assert error_ratio(dx.astype(np.float64), exact(y, dz, degrees[0])) <= BOUNDS[mode]
    assert error_ratio(dy.astype(np.float64), exact(x, dz, degrees[1])) <= BOUNDS[mode]


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize("degrees", [(2, 2, 2), (4, 3, 4), (1, 3, 3)])
def test_simulated_kernel_shares_rows(degrees, mode, dtype):
    l1, l2, l3 = degrees
    x, y = random_rows(21, 192, l1, dtype), random_rows(22, 3, l2, dtype)
    (z,) = simulated([x, y], (product_of(FORWARD, l3),), mode, (1, 64))
    assert error_ratio(z.astype(np.float64), exact(x, y.repeat(64, 0), l3)) <= BOUNDS[mode]


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize(("lmax", "order", "kept"), [(3, 3, 2), (2, 4, 2), (1, 2, 4)])
def test_simulated_kernel_gives_powers_and_their_gradient(lmax, order, kept, mode, dtype):
    x = random_rows(14, 41, lmax, dtype)
    products = powers(order, kept)
    found = simulated([x], products, mode)
    for z, product in zip(found, products, strict=True):
        wanted = exact_product([x], product)
        assert error_ratio(z.astype(np.float64), wanted) <= BOUNDS[mode]
    cotangents = [random_rows(15 + n, 41, kept, dtype) for n in range(len(products))]
    gradient = pulled_back((lmax,), products)
    (dx,) = simulated([x, *cotangents], gradient, mode)
    wanted = exact_product([x, *cotangents], gradient[0])
    assert error_ratio(dx.astype(np.float64), wanted) <= BOUNDS[mode]


def test_gradients_are_products_with_cotangents():
    products = (Product((Term((0, 0, 1), 2), Term((1,))), 3), product_of((0, 2), 1))
    wanted = (
        Product((Term((0, 1, 4), 4), Term((2, 5))), 2),
        Product((Term((0, 0, 4), 2), Term((4,))), 1),
        Product((Term((0, 5)),), 4),
        None,
    )
    assert pulled_back((2, 1, 4, 6), products) == wanted


def test_what_one_launch_cannot_hold_is_split():
    def launches_of(degrees, products):
        parts = split_problem(Problem(1000, degrees, products, 4, "tf32"))
        return [(part.inputs, part.results) for part in parts]

    sums = (Product((Term((0, 1)), Term((2, 3))), 8), product_of((1, 3), 8))
    assert launches_of((2,) * 4, (product_of((0, 1), 2),)) == [((0, 1), (0,))]
    assert launches_of((8,) * 4, sums) == [((0, 1), (0,)), ((2, 3), (0,)), ((1, 3), (1,))]


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
def test_rows_do_not_see_each_other(mode, dtype):
    x, y = (random_rows(seed, 45, 3, dtype) for seed in (4, 5))
    (clean,) = simulated([x, y], (product_of(FORWARD, 3),), mode)
    x[17], y[44, 0] = np.nan, np.nan
    (found,) = simulated([x, y], (product_of(FORWARD, 3),), mode)
    marked = np.isnan(found.astype(np.float32))
    assert marked[[17, 44]].all()
    assert not np.delete(marked, [17, 44], 0).any()
    others = np.delete(np.arange(45), [17, 44])
    assert np.array_equal(found[others], clean[others])


@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize("lmax", range(1, 9))
def test_launches_fit(lmax, mode, dtype):
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    plan = choose_plan(Problem(10**7, (lmax, lmax), (product_of(FORWARD, lmax),), itemsize, mode))
    assert plan.shared_bytes <= SHARED_BYTES
    assert plan.registers <= min(255, 64 * 1024 // plan.threads)
    assert plan.threads % 128 == 0
    assert plan.warps >= 8

"""The kernel for Hopper GPUs: simulated on NumPy, lowered for CUDA, run where there is a GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from structlayers._core.dispatch import assume_platform
from structlayers.equivariant import differentiable, gaunt_tensor_product, many_body_product
from structlayers.equivariant.half_grid import half_grid
from structlayers.equivariant.harmonics import spherical_harmonics
from structlayers.equivariant.ops.gaunt import dispatcher
from structlayers.equivariant.pallas_gpu import apply, support
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
from structlayers.equivariant.wigner import couples, gaunt
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate

BOUNDS = {"tf32": 1e-3, "3xtf32": 1e-6, "bf16": 8e-3}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
NATURAL = [("tf32", "float32"), ("3xtf32", "float32"), ("bf16", "bfloat16")]
FORWARD = (0, 1)


def random_rows(seed, rows, lmax, dtype):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, (lmax + 1) ** 2)).astype(DTYPES[dtype])


@functools.cache
def coefficients(l1, l2, l3):
    """All Gaunt coefficients of signals of these degrees, float64."""
    sizes = [(degree + 1) ** 2 for degree in (l1, l2, l3)]
    table = np.zeros(sizes)
    for a in range(l1 + 1):
        for b in range(l2 + 1):
            for c in range(l3 + 1):
                if couples(a, b, c):
                    place = tuple(slice(n**2, (n + 1) ** 2) for n in (a, b, c))
                    table[place] = gaunt(a, b, c)
    return table


def exact(x, y, l3):
    table = coefficients(largest_degree(x.shape[1]), largest_degree(y.shape[1]), l3)
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.einsum("ri,rj,ijk->rk", x, y, table, optimize=True)


def exact_product(arrays, product):
    """A sum of terms: factor by factor, all degrees kept until the last one."""
    found = 0
    for term in product.terms:
        value = arrays[term.factors[0]]
        for factor in term.factors[1:-1]:
            degree = largest_degree(value.shape[1]) + largest_degree(arrays[factor].shape[1])
            value = exact(value, arrays[factor], degree)
        found += term.scale * exact(value, arrays[term.factors[-1]], product.degree)
    return found


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
    "lmax", [pytest.param(n, marks=[pytest.mark.slow] if n in (5, 7) else []) for n in range(1, 9)]
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


def launches(function, *shapes):
    traced = jax.jit(function).trace(*shapes)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return text.count("custom_call @mosaic_gpu")


@pytest.mark.pallas
@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize(("lmax", "gradients"), [(2, 1), (4, 1), (8, 2)])
def test_kernel_and_its_gradients_lower_for_cuda(lmax, gradients, mode, dtype):
    def loss(x, y):
        z = apply.gaunt_tensor_product(x, y, lmax=lmax, grid=None, precision=mode)
        return jnp.sum(z.astype(jnp.float32) ** 2)

    size = (lmax + 1) ** 2
    x, y = jax.ShapeDtypeStruct((5, 7, size), dtype), jax.ShapeDtypeStruct((5, 1, size), dtype)
    wide = jax.ShapeDtypeStruct((5, 64, size), dtype)
    if mode == "bf16":  # half the registers: one launch at all degrees
        gradients = 1
    assert launches(loss, x, y) == 1
    assert launches(jax.grad(loss, (0, 1)), x, y) == 1 + gradients
    assert launches(jax.grad(loss, (0, 1)), wide, y) == 1 + gradients


@pytest.fixture
def portable_kernel(monkeypatch):
    """The products by their coefficients in the place of the kernel, which only a GPU runs."""

    def products_of_signals(tables, arrays, products, mode, repeats):
        del tables, mode
        pairs = zip(arrays, repeats, strict=True)
        wide = [jnp.repeat(a.astype(jnp.float32), n, axis=0) for a, n in pairs]
        return [by_coefficients(wide, one).astype(arrays[0].dtype) for one in products]

    monkeypatch.setattr(apply, "products_of_signals", products_of_signals)
    # functions that are partitioned hold no arrays, and this one does
    monkeypatch.setattr(differentiable, "partition_over_batch", lambda function, **_: function)
    differentiable._batchable.cache_clear()
    yield
    differentiable._batchable.cache_clear()


def by_coefficients(arrays, product):
    """`exact_product` in JAX."""
    found = jnp.zeros(())
    for term in product.terms:
        value = arrays[term.factors[0]]
        for n, factor in enumerate(term.factors[1:], 2):
            degrees = [largest_degree(a.shape[-1]) for a in (value, arrays[factor])]
            kept = product.degree if n == len(term.factors) else sum(degrees)
            table = coefficients(*degrees, kept)
            value = jnp.einsum(
                "...i,...j,ijk->...k", value, arrays[factor], table, precision="highest"
            )
        found = found + term.scale * value
    return found


@pytest.mark.usefixtures("portable_kernel")
def test_derivatives_to_third_order():
    x, y = (
        jnp.asarray(random_rows(6, 3, 2, "float32")),
        jnp.asarray(random_rows(7, 3, 1, "float32")),
    )
    weights = jnp.asarray(random_rows(8, 3, 2, "float32"))

    def third(product):
        def loss(x, y):
            return jnp.sum(jnp.sin(product(x, y)) * weights)

        def slope(x, y):
            return sum(jnp.sum(d**2) for d in jax.grad(loss, (0, 1))(x, y))

        def bend(x, y):
            return sum(jnp.sum(d**2) for d in jax.grad(slope, (0, 1))(x, y))

        return jax.jit(jax.grad(bend, (0, 1)))(x, y)

    ours = third(lambda x, y: apply.gaunt_tensor_product(x, y, lmax=2, grid=None, precision="tf32"))
    wanted = third(lambda x, y: by_coefficients((x, y), product_of((0, 1), 2)))
    for one, other in zip(ours, wanted, strict=True):
        assert error_ratio(one, other) <= 1e-5


@pytest.mark.usefixtures("portable_kernel")
@pytest.mark.parametrize("swapped", [False, True])
def test_derivatives_of_shared_rows(swapped):
    x = jnp.asarray(random_rows(23, 192, 2, "float32")).reshape(3, 2, 32, 9)
    y = jnp.asarray(random_rows(24, 3, 1, "float32")).reshape(3, 1, 1, 4)

    def second(product):
        def loss(x, y):
            return jnp.sum(jnp.sin(product(y, x) if swapped else product(x, y)))

        def slope(x, y):
            return sum(jnp.sum(d**2) for d in jax.grad(loss, (0, 1))(x, y))

        values = jax.jit(jax.vmap(product))(*((y, x) if swapped else (x, y)))
        return values, *jax.jit(jax.grad(slope, (0, 1)))(x, y)

    def ours(x, y):
        return apply.gaunt_tensor_product(x, y, lmax=2, grid=None, precision="tf32")

    def wanted(x, y):
        return by_coefficients((x, y), product_of((0, 1), 2))

    traced = jax.make_jaxpr(ours)(x, y)
    assert "f32[3,2,32,4]" not in str(traced)  # nothing is repeated in memory but by the fixture
    for one, other in zip(second(ours), second(wanted), strict=True):
        assert error_ratio(one, other) <= 1e-5


@pytest.mark.usefixtures("portable_kernel")
def test_second_derivatives_of_powers():
    x = jnp.asarray(random_rows(16, 3, 1, "float32"))

    def second(product):
        def slope(x):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(product(x))))(x) ** 2)

        return jax.jit(jax.grad(slope))(x)

    def ours(x):
        return apply.many_body_product(x, order=3, lmax=2, grid=None, precision="tf32")

    def wanted(x):
        return jnp.stack([by_coefficients((x,), one) for one in powers(3, 2)], axis=-2)

    assert ours(x).shape == (3, 2, 9)
    assert error_ratio(second(ours), second(wanted)) <= 1e-5


@pytest.mark.usefixtures("portable_kernel")
def test_composes_with_vmap_and_broadcasting():
    def product(x, y):
        return apply.gaunt_tensor_product(x, y, lmax=3, grid=None, precision="tf32")

    x = jnp.asarray(random_rows(9, 24, 2, "float32")).reshape(4, 2, 3, 9)
    y = jnp.asarray(random_rows(10, 8, 1, "float32")).reshape(4, 2, 1, 4)
    wanted = by_coefficients((x, y), product_of((0, 1), 3))
    assert error_ratio(product(x, y), wanted) <= 1e-6
    assert error_ratio(jax.vmap(product)(x, y), wanted) <= 1e-6
    shared = jax.jit(jax.vmap(product, (0, None)))(x, y[0])
    assert error_ratio(shared, by_coefficients((x, y[:1]), product_of((0, 1), 3))) <= 1e-6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"platform": "cpu"}, "this is cpu"),
        ({"dtype": "float16"}, "not float16"),
        ({"precision": jax.lax.Precision.HIGHEST}, "precision 'tf32', '3xtf32', 'bf16'"),
        ({"lmax": 0}, "degrees of at least 1"),
        ({"rows": 0}, "is empty"),
        ({"degree": 12}, "bytes of shared memory"),
    ],
)
def test_refuses_what_it_does_not_serve(changes, reason):
    wanted = {
        "platform": "gpu",
        "dtype": "float32",
        "precision": "tf32",
        "lmax": 2,
        "rows": 5,
        "degree": 2,
    } | changes
    x = jax.ShapeDtypeStruct((wanted["rows"], (wanted["degree"] + 1) ** 2), wanted["dtype"])
    with pytest.raises(NotImplementedError, match=reason):
        support.check(
            x, x, lmax=wanted["lmax"], precision=wanted["precision"], platform=wanted["platform"]
        )


@pytest.mark.pallas
@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
def test_public_products_lower_for_cuda(mode, dtype):
    def loss(x, y):
        z = gaunt_tensor_product(x, y, lmax=2, precision=mode, implementation="pallas_gpu")
        powers = many_body_product(z, order=3, precision=mode, implementation="pallas_gpu")
        return jnp.sum(powers.astype(jnp.float32))

    x, y = jax.ShapeDtypeStruct((5, 7, 9), dtype), jax.ShapeDtypeStruct((5, 1, 4), dtype)
    with assume_platform("gpu"):
        traced = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(x, y)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 4
    # signals in bfloat16 reach the kernel as they are
    kernels = [line for line in text.splitlines() if "custom_call @mosaic_gpu" in line]
    other = "f32" if dtype == "bfloat16" else "bf16"
    assert not any(f"x{other}>" in line.partition("} : ")[2] for line in kernels)


@pytest.mark.pallas
def test_lowers_inside_shard_map_with_one_signal_for_all_shards():
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    rows, every = PartitionSpec("rows"), PartitionSpec()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(rows, every), out_specs=rows)
    def product(x, y):
        return gaunt_tensor_product(x, y, precision="tf32", implementation="pallas_gpu")

    shapes = (jax.ShapeDtypeStruct((64, 9), jnp.float32), jax.ShapeDtypeStruct((9,), jnp.float32))
    with assume_platform("gpu"):
        run = jax.jit(jax.grad(lambda x, y: product(x, y).sum(), argnums=(0, 1)))
        text = run.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert "custom_call @mosaic_gpu" in text


def test_none_takes_the_kernel_where_it_was_measured():
    def choice(rows, precision, platform="gpu", lmax=3, dtype="float32"):
        x, y = (jax.ShapeDtypeStruct((rows, n, 16), dtype) for n in (128, 1))
        static = {"lmax": lmax, "grid": "gauss_legendre", "precision": precision}
        return dispatcher.choose(x, y, platform=platform, **static).name

    assert choice(5000, "tf32") == choice(5000, "3xtf32") == "pallas_gpu"
    assert choice(5000, "bf16", dtype="bfloat16") == "pallas_gpu"
    assert choice(5000, "bf16") == "xla"
    assert choice(4999, "tf32") == choice(5000, "tf32", lmax=4) == "xla"
    assert choice(5000, "tf32", platform="tpu") == "xla"
    assert choice(5000, jax.lax.Precision.HIGHEST) == "xla"


def test_public_products_say_why_not():
    x = jnp.ones((3, 9))
    with pytest.raises(NotImplementedError, match="this is cpu"):
        gaunt_tensor_product(x, x, precision="tf32", implementation="pallas_gpu")
    with pytest.raises(NotImplementedError, match="this is cpu"):
        many_body_product(x, order=2, precision="tf32", implementation="pallas_gpu")


@pytest.mark.usefixtures("portable_kernel")
@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
def test_public_products_give_what_other_implementations_give(mode, dtype):
    x, y = (jnp.asarray(random_rows(seed, 6, 2, dtype)) for seed in (17, 18))
    weights = (
        random_rows(19, 1, 2, "float32")[:, :3],
        None,
        random_rows(20, 1, 2, "float32")[:, :3],
    )

    def run(implementation):
        z = gaunt_tensor_product(
            x, y, lmax=2, weights=weights, precision=mode, implementation=implementation
        )
        powers = many_body_product(x, order=3, precision=mode, implementation=implementation)
        return z, powers

    with assume_platform("gpu"):
        found = run("pallas_gpu")
    for ours, wanted in zip(found, run("xla"), strict=True):
        assert ours.dtype == wanted.dtype
        error = error_ratio(np.asarray(ours, np.float64), np.asarray(wanted, np.float64))
        assert error <= 2 * BOUNDS[mode]  # of both


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize(("mode", "dtype"), NATURAL)
@pytest.mark.parametrize("lmax", [1, 2, 3, 4, 5, 6, 7, 8])
def test_values_and_gradients_on_the_gpu(lmax, mode, dtype):
    def product(x, y):
        return apply.gaunt_tensor_product(x, y, lmax=lmax, grid=None, precision=mode)

    x, y, dz = (random_rows(seed, 10_007, lmax, dtype) for seed in (11, 12, 13))

    @jax.jit
    def run(x, y, dz):
        z, pull = jax.vjp(product, x, y)
        return z, *pull(dz)

    found, again = run(x, y, dz), run(x, y, dz)
    wanted = (exact(x, y, lmax), exact(y, dz, lmax), exact(x, dz, lmax))
    for got, repeated, want in zip(found, again, wanted, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(repeated))
        assert error_ratio(np.asarray(got).astype(np.float64), want) <= BOUNDS[mode]

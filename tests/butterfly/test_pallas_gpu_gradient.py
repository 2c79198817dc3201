"""The kernel of the factors' gradient in bfloat16: simulated, lowered, and run on a GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.butterfly import butterfly_multiply, twiddle_shape, xla
from structlayers.butterfly.pallas_gpu import (
    apply,
    gradient_plans,
    gradient_program,
    tensor_program,
)
from structlayers.butterfly.pallas_gpu.weights import fragments, from_sums, merged_factors
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate

SIZES = [512, 1024, 2048, 4096, 8192, 16384]
BOUND = 1e-2


def random_rows(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape).astype(jnp.bfloat16)


def random_twiddle(seed, size, **kwargs):
    return jax.random.normal(jax.random.key(seed), twiddle_shape(size, **kwargs)) * 2**-0.5


def run(program, plan, inputs, output):
    assert plan.shared_bytes <= 232_448
    (result,) = simulate(
        program,
        [np.asarray(array) for array in inputs],
        [output],
        clusters=plan.clusters,
        cluster_size=1,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
    )
    return result


def product(x, blocks, plan):
    weights = fragments([blocks[factor.stride] for factor in plan.factors])
    x = np.asarray(x)
    output = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return run(tensor_program.program(plan), plan, [x, weights], output)


def sum_gradient(x, dy, blocks, transposed, plan):
    before, after = plan.factors[: plan.target], plan.factors[plan.target + 1 :]
    other = [blocks[f.stride] for f in before] + [transposed[f.stride] for f in after]
    inputs = [x, dy, fragments(other)] if other else [x, dy]
    output = jax.ShapeDtypeStruct((plan.sets, *plan.set_shape), jnp.float32)
    sums = run(gradient_program.program(plan), plan, inputs, output)
    return from_sums(jnp.asarray(sums), plan.summed)


def applied(x, blocks, factors):
    """The product with some factors in float64, factor by factor."""
    for factor in factors:
        parts = x.reshape(len(x), -1, factor.radix, factor.stride)
        block = np.asarray(blocks[factor.stride], np.float64)
        x = np.einsum("pkij,bpjk->bpik", block, parts).reshape(x.shape)
    return x


def exact_sums(x, dy, blocks, transposed, factors, target):
    """The gradient of one of the factors in float64."""
    v = applied(np.asarray(x, np.float64), blocks, factors[:target])
    g = applied(np.asarray(dy, np.float64), transposed, factors[:target:-1])
    factor = factors[target]
    v, g = (a.reshape(len(a), -1, factor.radix, factor.stride) for a in (v, g))
    return np.einsum("bpik,bpjk->pkij", g, v)


def blocks_of(size, increasing):
    radices = gradient_plans.gradient_radices(size)
    blocks = merged_factors(random_twiddle(1, size)[0, 0], radices, increasing)
    return blocks, {stride: block.swapaxes(-1, -2) for stride, block in blocks.items()}


def cut(plan, sets):
    return dataclasses.replace(plan, clusters=sets * plan.segments)


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize(
    "size", [pytest.param(s, marks=[pytest.mark.slow] if s >= 4096 else []) for s in SIZES]
)
def test_simulated_sums_give_the_gradient_of_each_factor(size, increasing):
    # rows that fill neither a tile nor a round of tiles
    x, dy = random_rows(2, (21, size)), random_rows(3, (21, size))
    blocks, transposed = blocks_of(size, increasing)
    for part in gradient_plans.gradient_parts(size, increasing=increasing):
        for plan in gradient_plans.sum_plans(part, size, len(x)):
            found = sum_gradient(x, dy, blocks, transposed, cut(plan, 2))
            wanted = exact_sums(x, dy, blocks, transposed, plan.factors, plan.target)
            assert found.shape == blocks[plan.summed.stride].shape
            assert error_ratio(np.asarray(found), wanted) <= BOUND


@pytest.mark.parametrize(("rows", "sets"), [(1, 1), (8, 1), (17, 3)])
def test_simulated_sums_of_few_rows(rows, sets):
    size = 512
    x, dy = random_rows(4, (rows, size)), random_rows(5, (rows, size))
    blocks, transposed = blocks_of(size, True)
    (part,) = gradient_plans.gradient_parts(size, increasing=True)
    for plan in gradient_plans.sum_plans(part, size, rows):
        found = sum_gradient(x, dy, blocks, transposed, cut(plan, sets))
        wanted = exact_sums(x, dy, blocks, transposed, part, plan.target)
        assert error_ratio(np.asarray(found), wanted) <= BOUND


@pytest.mark.parametrize("rows", [1, 8, 9, 16384])
@pytest.mark.parametrize("size", SIZES)
def test_grids_have_a_tile_for_every_block(size, rows):
    for part in gradient_plans.gradient_parts(size, increasing=True):
        for plan in gradient_plans.sum_plans(part, size, rows):
            assert plan.clusters % plan.segments == 0
            assert 1 <= plan.sets <= plan.tiles
            assert plan.shared_bytes <= (113 * 1024 if plan.warps == 8 else 227 * 1024)


@pytest.mark.slow
@pytest.mark.parametrize("increasing", [True, False])
def test_simulated_products_between_parts(increasing):
    size = 2048
    x = random_rows(6, (9, size))
    blocks, _ = blocks_of(size, increasing)
    for part in gradient_plans.gradient_parts(size, increasing=increasing):
        plan = gradient_plans.product_plan(part, size, len(x))
        wanted = applied(np.asarray(x, np.float64), blocks, part)
        assert error_ratio(product(x, blocks, plan), wanted) <= BOUND


@pytest.fixture
def simulated_kernels(monkeypatch):
    """Products and sums by XLA in the place of the kernels, which only a GPU runs."""
    from structlayers.butterfly.pallas_gpu import gradient

    def multiply(x, blocks, plans):
        for factor in (factor for plan in plans for factor in plan.factors):
            x = xla.apply_block(x[:, None], blocks[factor.stride][None], None)[:, 0]
        return x

    def sum_gradient(x, dy, blocks, transposed, plan):
        def shaped(x):
            # float32: XLA for CPUs has no product of all bfloat16 operands with float32 sums
            x = x.astype(jnp.float32)
            return x.reshape(len(x), -1, plan.summed.radix, plan.summed.stride)

        for factor in plan.factors[: plan.target]:
            x = xla.apply_block(x[:, None], blocks[factor.stride][None], None)[:, 0]
        for factor in plan.factors[: plan.target : -1]:
            dy = xla.apply_block(dy[:, None], transposed[factor.stride][None], None)[:, 0]
        return jnp.einsum("bpik,bpjk->pkij", shaped(dy), shaped(x))

    monkeypatch.setattr(gradient, "multiply", multiply)
    monkeypatch.setattr(gradient, "sum_gradient", sum_gradient)
    gradient._kernels.cache_clear()
    yield gradient.gradients
    gradient._kernels.cache_clear()


def wanted_gradients(x, twiddle, dy, increasing):
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, twiddle, dy)]
    _, pull = jax.vjp(
        lambda x, t: xla.butterfly_multiply(x, t, None, increasing_stride=increasing), *arrays[:2]
    )
    return pull(arrays[2])


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [512, 2048])
def test_gradients_from_products_and_sums(size, tied, increasing, simulated_kernels):
    x, dy = random_rows(7, (2, 3, size)), random_rows(8, (2, 3, size))
    twiddle = random_twiddle(9, size, tied=tied)
    found = simulated_kernels(x, twiddle[0, 0], dy, increasing)
    dx, dt = wanted_gradients(x, twiddle, dy, increasing)
    assert found[0].dtype == x.dtype
    assert error_ratio(np.asarray(found[0]), np.asarray(dx)) <= BOUND
    assert error_ratio(np.asarray(found[1]), np.asarray(dt[0, 0])) <= BOUND
    single = simulated_kernels(x[0, 0], twiddle[0, 0], dy[0, 0], increasing)
    assert error_ratio(np.asarray(single[0]), np.asarray(dx[0, 0])) <= BOUND


@pytest.mark.parametrize("rows", [3, 1024])
def test_gradients_under_vmap_and_again(rows, simulated_kernels):
    size = 512
    x, dy = random_rows(10, (2, rows, size)), random_rows(11, (2, rows, size))
    factors = jnp.stack([random_twiddle(seed, size)[0, 0] for seed in (12, 13)])
    for axes, factors_ in (((0, 0, 0), factors), ((0, None, 0), factors[0])):
        found = jax.vmap(lambda x, f, dy: simulated_kernels(x, f, dy, True), axes)(x, factors_, dy)
        for index in range(2):
            one = factors_ if axes[1] is None else factors[index]
            wanted = wanted_gradients(x[index], one[None, None], dy[index], True)
            for got, want in zip(found, (wanted[0], wanted[1][0, 0]), strict=True):
                assert error_ratio(np.asarray(got[index]), np.asarray(want)) <= BOUND

    def loss(gradients, x, factors, dy):
        dx, df = gradients(x, factors, dy)
        return jnp.sum(dx.astype(jnp.float32) ** 2) + jnp.sum(df**2)

    arrays = (x[0], factors[0], dy[0])
    found = jax.grad(loss, (1, 2, 3))(lambda *a: simulated_kernels(*a, True), *arrays)

    def by_xla(x, factors, dy):
        dx, dt = wanted_gradients(x, factors[None, None], dy, True)
        return dx, dt[0, 0]

    wanted = jax.grad(loss, (1, 2, 3))(by_xla, *arrays)
    for got, want in zip(found, wanted, strict=True):
        assert error_ratio(np.asarray(got, np.float32), np.asarray(want, np.float32)) <= 2 * BOUND


def gradients(x, twiddle, dy, **how):
    multiply = functools.partial(butterfly_multiply, implementation="pallas_gpu", **how)
    return jax.vjp(multiply, x, twiddle)[1](dy)


def launches(size):
    """The launches of both gradients."""
    parts = gradient_plans.gradient_parts(size, increasing=True)
    return 2 * len(parts) - 1 + sum(map(len, parts))


@pytest.fixture
def always_by_kernel(monkeypatch):
    monkeypatch.setattr(apply, "_GRADIENT_BY_KERNEL_FROM_ROWS", dict.fromkeys(SIZES, 1))


@pytest.mark.pallas
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("always_by_kernel")
def test_gradients_lower_for_cuda(size, increasing):
    x = jax.ShapeDtypeStruct((1029, size), jnp.bfloat16)
    twiddle = jax.eval_shape(lambda: random_twiddle(0, size))

    def run(x, twiddle, dy):
        return gradients(x, twiddle, dy, increasing_stride=increasing)

    def loss(*arrays):
        return sum(jnp.sum(jnp.abs(g.astype(jnp.float32))) for g in run(*arrays))

    with assume_platform("gpu"):
        for function in (run, jax.grad(loss, (0, 1, 2))):
            traced = jax.jit(function).trace(x, twiddle, x)
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
            assert text.count("custom_call @mosaic_gpu") == launches(size)


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("always_by_kernel")
def test_gradients_on_the_gpu(size, tied, increasing):
    x, dy = random_rows(14, (2061, size)), random_rows(15, (2061, size))
    twiddle = random_twiddle(16, size, tied=tied)
    run = jax.jit(lambda *arrays: gradients(*arrays, increasing_stride=increasing))
    found, again = run(x, twiddle, dy), run(x, twiddle, dy)
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(a), jnp.float64) for a in (x, twiddle, dy)]
        _, pull = jax.vjp(
            lambda x, t: xla.butterfly_multiply(x, t, None, increasing_stride=increasing),
            *arrays[:2],
        )
        wanted = [np.asarray(a) for a in pull(arrays[2])]
    for got, repeated, want in zip(found, again, wanted, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(repeated))
        assert error_ratio(np.asarray(got), want) <= BOUND

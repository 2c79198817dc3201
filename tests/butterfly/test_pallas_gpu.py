"""Kernels for Hopper GPUs: simulated on NumPy, lowered for CUDA, and run where there is a GPU."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from structlayers._core import pallas
from structlayers._core.dispatch import assume_platform
from structlayers.butterfly import (
    butterfly_multiply,
    hadamard_multiply,
    merge_butterfly,
    sorf_multiply,
    twiddle_shape,
    untie_butterfly,
    xla,
)
from structlayers.butterfly.ops.multiply import dispatcher
from structlayers.butterfly.pallas_gpu import hadamard as gpu_hadamard
from structlayers.butterfly.pallas_gpu import plans, scalar_program, tensor_program
from structlayers.butterfly.pallas_gpu.weights import fragments, merged_factors
from structlayers.butterfly.walsh import reference as walsh
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate

BOUNDS = {"bfloat16": 1e-2, "float32": 2e-6, "complex64": 2e-6}
TWO_LAUNCHES = {
    *(("bfloat16", size) for size in (4096, 8192, 16384)),
    *(("float32", size) for size in (4096, 8192, 16384)),
    *(("complex64", size) for size in (2048, 4096, 8192, 16384)),
}
GRADIENTS_BY_XLA = {("bfloat16", 64), ("bfloat16", 128)}
SIZES = [(dtype, size) for dtype in BOUNDS for size in plans.served_sizes(dtype)]


def random_array(seed, shape, dtype):
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], shape, jnp.float32)
    if dtype == "complex64":
        return jax.lax.complex(x, jax.random.normal(keys[1], shape, jnp.float32))
    return x.astype(dtype)


def random_twiddle(seed, size, dtype, **kwargs):
    dtype = "float32" if dtype == "bfloat16" else dtype
    return random_array(seed, twiddle_shape(size, **kwargs), dtype) * jnp.asarray(2**-0.5, dtype)


def exact(x, twiddle, increasing):
    """The product in float64 or complex128, factor by factor."""
    values = np.asarray(x).astype(np.complex128 if x.dtype.kind == "c" else np.float64)
    factors = np.asarray(untie_butterfly(twiddle))[0, 0]
    levels = range(len(factors))
    for level in levels if increasing else reversed(levels):
        stride = 2**level
        parts = values.reshape(len(values), -1, 2, stride)
        blocks = factors[level].reshape(-1, stride, 2, 2)
        values = np.einsum("pkij,bpjk->bpik", blocks, parts).reshape(values.shape)
    return values


def simulated(x, twiddle, increasing, rounds=2):
    """The launches of the kernel on grids so small that a block has several tiles."""
    launches = tensor_launches if x.dtype == jnp.bfloat16 else scalar_launches
    size = x.shape[-1]
    y = side_by_side(np.asarray(x), plans.side_by_side(size))
    for program, weights, plan, grid in launches(len(y), x, twiddle, increasing, rounds):
        assert plan.shared_bytes <= 232_448
        (y,) = simulate(
            program,
            [y, np.asarray(weights)],
            [jax.ShapeDtypeStruct(y.shape, x.dtype)],
            threads=plan.threads,
            shared_bytes=plan.shared_bytes,
            **grid,
        )
    return y.reshape(-1, size)[: len(x)]


def side_by_side(x, count):
    filled = np.concatenate([x, np.zeros((-len(x) % count, x.shape[1]), x.dtype)])
    return filled.reshape(-1, count * x.shape[1])


def tensor_launches(rows, x, twiddle, increasing, rounds):
    size, factors = x.shape[-1], twiddle[0, 0]
    if plans.merges_itself(size):
        tied = factors.ndim == 3
        plan = plans.unmerged_plan(size, rows, increasing=increasing, tied=tied)
        plan = dataclasses.replace(plan, clusters=rounds)
        grid = {"clusters": plan.clusters, "cluster_size": 1}
        yield tensor_program.program(plan), factors, plan, grid
        return
    blocks = merged_factors(factors, plans.tensor_radices(size), increasing)
    launches = plans.tensor_plans(size, rows, increasing=increasing)
    factors = [factor for plan in launches for factor in plan.factors]
    weights = fragments([blocks[factor.stride] for factor in factors])
    for plan in launches:
        plan = dataclasses.replace(plan, clusters=rounds * plan.segments)
        grid = {"clusters": plan.clusters, "cluster_size": plan.cluster_size}
        yield tensor_program.program(plan), weights, plan, grid


def scalar_launches(rows, x, twiddle, increasing, rounds):
    size = x.shape[-1]
    for plan in plans.scalar_plans(size, rows, x.dtype.name, increasing=increasing):
        plan = dataclasses.replace(plan, blocks=rounds * plan.segments)
        grid = {"clusters": plan.blocks, "cluster_size": 1}
        yield scalar_program.program(plan), twiddle[0, 0], plan, grid


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[1] >= 4096 else []) for one in SIZES],
)
def test_simulated_kernel_gives_the_product(dtype, size, increasing):
    # rows that fill neither a tile nor a round of tiles
    rows = 20 * plans.side_by_side(size) + 1
    x, twiddle = random_array(0, (rows, size), dtype), random_twiddle(1, size, dtype)
    y = simulated(x, twiddle, increasing)
    assert y.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    assert error_ratio(y, exact(x, twiddle, increasing)) <= BOUNDS[dtype]


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_simulated_kernel_merges_tied_factors_itself(size, increasing):
    x = random_array(0, (81, size), "bfloat16")
    twiddle = random_twiddle(1, size, "bfloat16", tied=True)
    y = simulated(x, twiddle, increasing)
    assert error_ratio(y, exact(x, twiddle, increasing)) <= BOUNDS["bfloat16"]


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_simulated_kernel_serves_few_rows(rows):
    for dtype, size in (("bfloat16", 1024), ("float32", 512)):
        x, twiddle = random_array(2, (rows, size), dtype), random_twiddle(3, size, dtype)
        y = simulated(x, twiddle, True, rounds=1)
        assert error_ratio(y, exact(x, twiddle, True)) <= BOUNDS[dtype]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("increasing", [True, False])
def test_fragments_are_made_of_what_xla_fuses(increasing, tied):
    def words(factors):
        merged = merged_factors(factors, plans.tensor_radices(2048), increasing)
        return fragments(list(merged.values()))

    factors = jax.ShapeDtypeStruct(twiddle_shape(2048, tied=tied)[2:], "float32")
    text = jax.jit(words).lower(factors).as_text()
    assert "multiply" in text
    for name in ("dot_general", "reduce", "gather", "scatter"):
        assert f"stablehlo.{name}" not in text


@pytest.mark.parametrize("increasing", [True, False])
def test_merged_factors_of_tied_ones_are_repeated(increasing):
    twiddle = random_twiddle(4, 512, "float32", tied=True)
    radices = plans.tensor_radices(512)
    merged = merge_butterfly(twiddle, radices, increasing_stride=increasing)
    found = merged_factors(twiddle[0, 0], radices, increasing)
    for ours, block in zip(found.values(), merged, strict=True):
        assert error_ratio(ours, jnp.broadcast_to(block[0], ours.shape)) <= 1e-7


@pytest.mark.pallas
@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_kernel_and_its_gradients_lower_for_cuda(dtype, size):
    def loss(x, twiddle):
        y = butterfly_multiply(x, twiddle, permutation=order, implementation="pallas_gpu")
        return jnp.sum(jnp.abs(y.astype(jnp.complex64)))

    order = np.arange(size)[::-1]
    x = jax.ShapeDtypeStruct((3, 7, size - 2), dtype)
    twiddle = jax.eval_shape(lambda: random_twiddle(0, size, dtype, stacks=2, blocks=2, tied=True))
    with assume_platform("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, twiddle)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # 2 stacks of 2 blocks, forward and, but for the smallest, for the gradient of the rows
    launches = 2 if (dtype, size) in TWO_LAUNCHES else 1
    products = 4 if (dtype, size) in GRADIENTS_BY_XLA else 8
    assert text.count("custom_call @mosaic_gpu") == products * launches


@pytest.mark.parametrize(
    ("dtype", "size", "reason"),
    [
        ("float16", 1024, "not float16"),
        ("float32", 32, "not N = 32"),
        ("complex64", 32768, "not N = 32768"),
    ],
)
def test_refuses_what_it_does_not_serve(dtype, size, reason):
    x = jax.ShapeDtypeStruct((4, size), dtype)
    kind = "complex64" if dtype == "complex64" else "float32"
    twiddle = jax.ShapeDtypeStruct(twiddle_shape(size), kind)
    with pytest.raises(NotImplementedError, match=reason):
        dispatcher.choose(x, twiddle, None, implementation="pallas_gpu", platform="gpu")
    assert dispatcher.choose(x, twiddle, None, platform="gpu").name != "pallas_gpu"


def test_refuses_other_platforms():
    with pytest.raises(NotImplementedError, match="this is cpu"):
        butterfly_multiply(
            jnp.ones((2, 512)), jnp.ones(twiddle_shape(512)), implementation="pallas_gpu"
        )


def test_refuses_other_gpus(monkeypatch):
    x = jax.ShapeDtypeStruct((4096, 1024), "float32")
    twiddle = jax.ShapeDtypeStruct(twiddle_shape(1024), "float32")
    assert dispatcher.choose(x, twiddle, None, platform="gpu").name == "pallas_gpu"
    monkeypatch.setattr(pallas, "gpu_compute_capability", lambda: "8.0")
    with pytest.raises(NotImplementedError, match=r"9\.0; this one has 8\.0"):
        dispatcher.choose(x, twiddle, None, implementation="pallas_gpu", platform="gpu")
    assert dispatcher.choose(x, twiddle, None, platform="gpu").name == "xla"


def multiply(x, twiddle, **kwargs):
    return butterfly_multiply(x, twiddle, implementation="pallas_gpu", **kwargs)


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_values_and_gradients_on_the_gpu(dtype, size, tied, increasing):
    x = random_array(4, (1037, size), dtype)
    twiddle = random_twiddle(5, size, dtype, tied=tied)
    cotangent = random_array(6, x.shape, dtype)

    def run(x, twiddle):
        y, pull = jax.vjp(lambda *a: multiply(*a, increasing_stride=increasing), x, twiddle)
        return y, *pull(cotangent)

    found, again = jax.jit(run)(x, twiddle), jax.jit(run)(x, twiddle)
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        wide = jnp.complex128 if dtype == "complex64" else jnp.float64
        arguments = [jnp.asarray(np.asarray(a)).astype(wide) for a in (x, twiddle, cotangent)]
        y, pull = jax.vjp(
            lambda x, t: xla.butterfly_multiply(x, t, None, increasing_stride=increasing),
            *arguments[:2],
        )
        wanted = [np.asarray(a) for a in (y, *pull(arguments[2]))]
    for name, got, repeated, want in zip(("y", "dx", "dt"), found, again, wanted, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(repeated)), name
        assert error_ratio(np.asarray(got), want) <= BOUNDS[dtype], name


@pytest.mark.gpu
@pytest.mark.pallas
def test_composes_on_the_gpu():
    x, twiddle = random_array(7, (3, 5, 512), "float32"), random_twiddle(8, 512, "float32")
    plain = multiply(x, twiddle)
    mapped = jax.jit(jax.vmap(multiply, in_axes=(0, None)))(x, twiddle)
    assert np.array_equal(np.asarray(mapped), np.asarray(plain))
    for rows in (5, 2048):  # by XLA, and launch by launch
        many = random_array(9, (3, rows, 512), "float32")
        both = jax.vmap(multiply)(many, jnp.stack([twiddle, 2 * twiddle, -twiddle]))
        wanted = 2.0**9 * np.asarray(multiply(many[1], twiddle))
        assert error_ratio(np.asarray(both[1]), wanted) <= 1e-6

    def loss(twiddle):
        gradient = jax.grad(lambda t: jnp.sum(multiply(x, t) ** 2))(twiddle)
        return jnp.sum(gradient * twiddle)

    def loss_by_xla(twiddle):
        def run(t):
            return jnp.sum(butterfly_multiply(x, t, implementation="xla") ** 2)

        return jnp.sum(jax.grad(run)(twiddle) * twiddle)

    second, wanted = jax.jit(jax.grad(loss))(twiddle), jax.jit(jax.grad(loss_by_xla))(twiddle)
    assert error_ratio(np.asarray(second), np.asarray(wanted)) <= 1e-5


@pytest.fixture
def portable_kernel(monkeypatch):
    """The product with factors by XLA in the place of the kernel, which only a GPU runs."""

    def apply_factors(x, factors, increasing):
        assert increasing
        return xla.butterfly_multiply(x, factors[None, None], None)

    monkeypatch.setattr(gpu_hadamard, "apply_factors", apply_factors)


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.usefixtures("portable_kernel")
def test_hadamard_products_as_butterflies(dtype):
    x = random_array(10, (5, 512), dtype)
    signs = jnp.sign(random_array(11, (3, 512), "float32")).astype(dtype)
    for scale in (1.0, 512**-0.5, 1 / 512):
        found = gpu_hadamard.hadamard_multiply(x, scale=scale)
        wanted = walsh.hadamard_multiply(x.astype(wide(dtype)), scale=scale)
        assert found.dtype == x.dtype
        assert error_ratio(np.asarray(found), np.asarray(wanted)) <= BOUNDS[dtype]
    found = gpu_hadamard.sorf_multiply(x, signs)
    wanted = walsh.sorf_multiply(x.astype(wide(dtype)), signs.astype(wide(dtype)))
    assert error_ratio(np.asarray(found), np.asarray(wanted)) <= BOUNDS[dtype]


@pytest.mark.usefixtures("portable_kernel")
def test_hadamard_product_is_its_own_gradient():
    x, dy = random_array(12, (2, 5, 256), "float32")
    _, pull = jax.vjp(lambda x: gpu_hadamard.hadamard_multiply(x, scale=1 / 16), x)
    assert error_ratio(pull(dy)[0], gpu_hadamard.hadamard_multiply(dy, scale=1 / 16)) == 0.0


def wide(dtype):
    return "complex64" if dtype == "complex64" else "float32"


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_hadamard_products_on_the_gpu(dtype):
    x = random_array(13, (37, 1024), dtype)
    signs = jnp.sign(random_array(14, (3, 1024), "float32"))
    for run in (hadamard_multiply, lambda x, **how: sorf_multiply(x, signs, **how)):
        found = run(x, implementation="pallas_gpu")
        wanted = run(x.astype(wide(dtype)), implementation="reference")
        assert error_ratio(np.asarray(found), np.asarray(wanted)) <= BOUNDS[dtype]

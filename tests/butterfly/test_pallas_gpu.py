"""Kernels for Hopper GPUs: simulated on NumPy, lowered for CUDA, and run where there is a GPU."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.butterfly import butterfly_multiply, merge_butterfly, twiddle_shape, xla
from structlayers.butterfly.ops.multiply import dispatcher
from structlayers.butterfly.pallas_gpu import plans, scalar_program, tensor_program
from structlayers.butterfly.pallas_gpu.weights import fragments
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate

BOUNDS = {"bfloat16": 1e-2, "float32": 2e-6, "complex64": 2e-6}
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
    factors = np.asarray(twiddle)[0, 0]
    levels = range(len(factors))
    for level in levels if increasing else reversed(levels):
        stride = 2**level
        parts = values.reshape(len(values), -1, 2, stride)
        blocks = factors[level].reshape(-1, stride, 2, 2)
        values = np.einsum("pkij,bpjk->bpik", blocks, parts).reshape(values.shape)
    return values


def few_blocks(plan, size):
    """The plan on a grid of two, so that a block has several tiles."""
    name = "clusters" if isinstance(plan, tensor_program.Plan) else "blocks"
    return type(plan)(**{**{f: getattr(plan, f) for f in plan.__dataclass_fields__}, name: size})


def simulated(x, twiddle, increasing, grid):
    rows, size = x.shape
    if x.dtype == jnp.bfloat16:
        plan = few_blocks(plans.tensor_plan(size, rows, increasing=increasing), grid)
        blocks = merge_butterfly(twiddle, plans.tensor_radices(size), increasing_stride=increasing)
        weights = fragments([b[0] for b in (blocks if increasing else blocks[::-1])])
        program, cluster_size = tensor_program.program(plan), plan.cluster_size
    else:
        plan = few_blocks(plans.scalar_plan(size, rows, x.dtype.name, increasing=increasing), grid)
        weights, program, cluster_size = twiddle[0, 0], scalar_program.program(plan), 1
    assert plan.shared_bytes <= 232_448
    (y,) = simulate(
        program,
        [np.asarray(x), np.asarray(weights)],
        [jax.ShapeDtypeStruct(x.shape, x.dtype)],
        clusters=grid,
        cluster_size=cluster_size,
        threads=plan.threads,
        shared_bytes=plan.shared_bytes,
    )
    return y


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[1] >= 4096 else []) for one in SIZES],
)
def test_simulated_kernel_gives_the_product(dtype, size, increasing):
    # rows that fill neither a tile nor a round of tiles
    x, twiddle = random_array(0, (21, size), dtype), random_twiddle(1, size, dtype)
    y = simulated(x, twiddle, increasing, 2)
    assert y.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    assert error_ratio(y, exact(x, twiddle, increasing)) <= BOUNDS[dtype]


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_simulated_kernel_serves_few_rows(rows):
    for dtype, size in (("bfloat16", 1024), ("float32", 512)):
        x, twiddle = random_array(2, (rows, size), dtype), random_twiddle(3, size, dtype)
        y = simulated(x, twiddle, True, 1)
        assert error_ratio(y, exact(x, twiddle, True)) <= BOUNDS[dtype]


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
    # 2 stacks of 2 blocks, forward and for the gradient of the rows
    assert text.count("custom_call @mosaic_gpu") == 8


@pytest.mark.parametrize(
    ("dtype", "size", "reason"),
    [
        ("float16", 1024, "not float16"),
        ("float32", 128, "not N = 128"),
        ("bfloat16", 16384, "not N = 16384"),
    ],
)
def test_refuses_what_it_does_not_serve(dtype, size, reason):
    x = jax.ShapeDtypeStruct((4, size), dtype)
    twiddle = jax.ShapeDtypeStruct(twiddle_shape(size), "float32")
    with pytest.raises(NotImplementedError, match=reason):
        dispatcher.choose(x, twiddle, None, implementation="pallas_gpu", platform="gpu")
    assert dispatcher.choose(x, twiddle, None, platform="gpu").name != "pallas_gpu"


def test_refuses_other_platforms():
    with pytest.raises(NotImplementedError, match="this is cpu"):
        butterfly_multiply(
            jnp.ones((2, 512)), jnp.ones(twiddle_shape(512)), implementation="pallas_gpu"
        )


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
        run = lambda t: jnp.sum(butterfly_multiply(x, t, implementation="xla") ** 2)  # noqa: E731
        return jnp.sum(jax.grad(run)(twiddle) * twiddle)

    second, wanted = jax.jit(jax.grad(loss))(twiddle), jax.jit(jax.grad(loss_by_xla))(twiddle)
    assert error_ratio(np.asarray(second), np.asarray(wanted)) <= 1e-5

"""The Hopper kernel of Monarch products: simulated, lowered for CUDA, and run where a GPU is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers.butterfly import monarch_multiply
from structlayers.butterfly.monarch import reference
from structlayers.butterfly.ops.monarch import dispatcher
from structlayers.butterfly.pallas_gpu import monarch, plans, tensor_program
from structlayers.butterfly.pallas_gpu.weights import fragments
from structlayers.testing import error_ratio
from structlayers.testing.simt import simulate

BOUND = 1e-2
SHAPES = [(16, 32), (32, 16), (32, 32)]  # p, k


def random_rows(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(jnp.bfloat16)


def random_blocks(seed, p, k, dtype="float32"):
    keys = jax.random.split(jax.random.key(seed))
    blocks1 = jax.random.normal(keys[0], (k, p, p)) * p**-0.5
    blocks2 = jax.random.normal(keys[1], (p, k, k)) * k**-0.5
    return blocks1.astype(dtype), blocks2.astype(dtype)


def exact(x, blocks1, blocks2):
    """The product in float64."""
    k, p, _ = blocks1.shape
    blocks1, blocks2 = (np.asarray(blocks, np.float64) for blocks in (blocks1, blocks2))
    middle = np.einsum("bkp,kqp->bkq", np.asarray(x, np.float64).reshape(-1, k, p), blocks1)
    out = np.einsum("brl,lsr->bsl", middle.reshape(-1, k, p), blocks2)
    return out.reshape(x.shape)


@pytest.fixture
def simulated(monkeypatch):
    """Launches on NumPy, on grids so small that a block has several tiles."""

    def multiply(x, blocks, launches):
        (plan,) = launches
        plan = dataclasses.replace(plan, clusters=2)
        weights = fragments([blocks[factor.stride] for factor in plan.factors])
        (y,) = simulate(
            tensor_program.program(plan),
            [np.asarray(x), np.asarray(weights)],
            [jax.ShapeDtypeStruct(x.shape, x.dtype)],
            clusters=plan.clusters,
            cluster_size=1,
            threads=plan.threads,
            shared_bytes=plan.shared_bytes,
        )
        return jnp.asarray(y)

    def with_batching(kernel, by_xla):
        del by_xla
        return kernel

    monkeypatch.setattr(monarch, "multiply", multiply)
    monkeypatch.setattr(monarch, "with_batching", with_batching)
    monkeypatch.setattr(monarch, "partition_over_batch", lambda fn, **_: fn)
    monarch._kernel.cache_clear()
    yield
    monarch._kernel.cache_clear()


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(("p", "k"), SHAPES)
def test_simulated_product_and_gradients(p, k):
    x, dy = random_rows(0, (21, p * k - 3)), random_rows(1, (21, p * k))
    blocks = random_blocks(2, p, k)
    y, pull = jax.vjp(lambda x, *blocks: monarch.monarch_multiply(x, *blocks), x, *blocks)
    padded = np.pad(np.asarray(x, np.float64), [(0, 0), (0, 3)])
    assert y.dtype == x.dtype
    assert error_ratio(np.asarray(y), exact(padded, *blocks)) <= BOUND
    wide = [jnp.asarray(a, jnp.float32) for a in (x, *blocks)]
    _, wanted = jax.vjp(lambda *a: reference.monarch_multiply(*a, out_features=p * k), *wide)
    found, wanted = pull(dy), wanted(jnp.asarray(dy, jnp.float32))
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert error_ratio(np.asarray(got), np.asarray(want)) <= BOUND


@pytest.mark.pallas
@pytest.mark.parametrize(("p", "k"), SHAPES)
def test_product_and_gradients_lower_for_cuda(p, k):
    def loss(x, *blocks):
        y = monarch_multiply(x, *blocks, out_features=p * k - 1, implementation="pallas_gpu")
        return jnp.sum(y.astype(jnp.float32) ** 2)

    x = jax.ShapeDtypeStruct((3, 7, p * k - 2), "bfloat16")
    blocks = jax.eval_shape(lambda: random_blocks(0, p, k))
    with assume_platform("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(x, *blocks)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 2


@pytest.mark.parametrize(
    ("shapes", "dtype", "reason"),
    [
        (((4, 16, 16), (16, 4, 4)), "bfloat16", "not shapes"),
        (((32, 16, 32), (32, 16, 16)), "bfloat16", "not shapes"),
        (((32, 32, 32), (32, 32, 32)), "float32", "takes bfloat16, not float32"),
    ],
)
def test_refuses_what_it_does_not_serve(shapes, dtype, reason):
    x = jax.ShapeDtypeStruct((4096, shapes[0][0] * shapes[0][2]), dtype)
    blocks = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    options = {"platform": "gpu", "out_features": shapes[1][0] * shapes[1][1]}
    with pytest.raises(NotImplementedError, match=reason):
        dispatcher.choose(x, *blocks, implementation="pallas_gpu", **options)
    assert dispatcher.choose(x, *blocks, **options).name != "pallas_gpu"


def test_is_chosen_for_many_rows_on_hopper():
    blocks = [jax.ShapeDtypeStruct((32, 32, 32), "float32")] * 2
    for rows, kernel in ((16384, True), (1, False)):
        x = jax.ShapeDtypeStruct((rows, 1024), "bfloat16")
        chosen = dispatcher.choose(x, *blocks, platform="gpu", out_features=1024).name
        assert (chosen == "pallas_gpu") == kernel


def test_plans_are_those_of_butterflies():
    plan = plans.two_factor_plan((32, 32), 16384, increasing=True)
    assert plan == plans.tensor_plans(1024, 16384, increasing=True)[0]


@pytest.mark.gpu
@pytest.mark.pallas
@pytest.mark.parametrize(("p", "k"), SHAPES)
def test_values_and_gradients_on_the_gpu(p, k):
    x, dy = random_rows(3, (1037, p * k)), random_rows(4, (1037, p * k))
    blocks = random_blocks(5, p, k)

    def run(x, *blocks):
        y, pull = jax.vjp(lambda *a: monarch_multiply(*a, implementation="pallas_gpu"), x, *blocks)
        return y, *pull(dy)

    found, again = jax.jit(run)(x, *blocks), jax.jit(run)(x, *blocks)
    wide = [jnp.asarray(a, jnp.float32) for a in (x, *blocks)]
    y, pull = jax.vjp(lambda *a: monarch_multiply(*a, implementation="reference"), *wide)
    wanted = (y, *pull(dy.astype(jnp.float32)))
    for got, repeated, want in zip(found, again, wanted, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(repeated))
        assert error_ratio(np.asarray(got), np.asarray(want)) <= BOUND


@pytest.mark.gpu
@pytest.mark.pallas
def test_composes_with_vmap_on_the_gpu():
    x, blocks = random_rows(6, (2, 2048, 1024)), random_blocks(7, 32, 32)

    def run(x, *blocks):
        return monarch_multiply(x, *blocks, implementation="pallas_gpu")

    both = jax.vmap(run, (0, None, None))(x, *blocks)
    assert np.array_equal(np.asarray(both), np.asarray(run(x, *blocks)))
    stacked = [jnp.stack([block, -block]) for block in blocks]
    each = jax.vmap(run)(x, *stacked)
    assert np.array_equal(np.asarray(each), np.asarray(both))  # two signs cancel

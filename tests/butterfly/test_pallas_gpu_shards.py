"""The Hopper kernels inside `jax.shard_map`: rows sharded, weights the same on all shards."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers._core.dispatch import assume_platform
from structlayers._core.partitioning import vary_alike
from structlayers.butterfly import (
    butterfly_multiply,
    hadamard_multiply,
    monarch_multiply,
    sorf_multiply,
    twiddle_shape,
)
from structlayers.butterfly.pallas_gpu import apply, calls, gradient, monarch
from structlayers.testing import assert_close
from structlayers.testing.simt import simulate

SHARDS = 2


def butterfly(size: int, **how: Any) -> tuple[Callable[..., jax.Array], tuple]:
    return functools.partial(butterfly_multiply, **how), (twiddle_shape(size),)


# the product, shapes of its weights, N, dtype of rows, and who makes the gradient of the weights
CASES = {
    "by xla": (*butterfly(64), 64, "bfloat16"),
    "by the dense matrix": (*butterfly(512), 512, "bfloat16"),
    "by kernels": (*butterfly(512, increasing_stride=False), 512, "bfloat16"),
    "by groups": (*butterfly(128), 128, "float32"),
    "monarch": (monarch_multiply, ((32, 16, 16), (16, 32, 32)), 512, "bfloat16"),
    "sorf": (sorf_multiply, ((2, 128),), 128, "float32"),
    "hadamard": (hadamard_multiply, (), 256, "float32"),
}


@pytest.fixture
def simulated(monkeypatch):
    """Launches as callbacks of the NumPy machine."""

    def launch(program, inputs, out, plan, grid):
        def run(*arrays):
            found = simulate(
                program,
                [np.asarray(array) for array in arrays],
                [out],
                clusters=grid[0],
                cluster_size=grid[1],
                threads=plan.threads,
                shared_bytes=plan.shared_bytes,
            )
            return found[0]

        struct = jax.ShapeDtypeStruct(out.shape, out.dtype)
        return vary_alike([*inputs, jax.pure_callback(run, struct, *inputs)])[-1]

    monkeypatch.setattr(calls, "_launch", launch)
    with assume_platform("gpu"):
        yield


@pytest.fixture
def case(request, monkeypatch):
    """A case with the op that it is about, whose jitted functions are not those of other tests."""
    if request.param == "by kernels":
        monkeypatch.setattr(apply, "_GRADIENT_BY_KERNEL_FROM_ROWS", {512: 1})
    caches = apply._kernel, gradient._kernels, monarch._kernel
    for cache in caches:
        cache.cache_clear()
    op, *rest = CASES[request.param]
    yield functools.partial(op, implementation="pallas_gpu"), *rest
    for cache in caches:
        cache.cache_clear()


def with_gradients(op: Callable[..., jax.Array], x: Any, dy: Any, weights: Any) -> Any:
    y, pull = jax.vjp(op, x, *weights)
    return y, *pull(dy)


def on_shards(op: Callable[..., jax.Array], x: Any, dy: Any, weights: Any) -> Any:
    mesh = jax.make_mesh(
        (SHARDS,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:SHARDS]
    )
    specs = (P("rows"), *(P() for _ in weights))
    sharded = jax.shard_map(op, mesh=mesh, in_specs=specs, out_specs=P("rows"))
    return with_gradients(sharded, x, dy, weights)


@pytest.mark.pallas
@pytest.mark.parametrize("case", CASES, indirect=True)
def test_gradients_lower_inside_shard_map(case):
    op, shapes, size, dtype = case
    x = jax.ShapeDtypeStruct((2, 8, size), dtype)
    kind = "float32" if op.func is not sorf_multiply else dtype
    weights = [jax.ShapeDtypeStruct(shape, kind) for shape in shapes]
    run = jax.jit(functools.partial(on_shards, op))
    with assume_platform("gpu"):
        text = run.trace(x, x, weights).lower(lowering_platforms=("cuda",)).as_text()
    assert "custom_call @mosaic_gpu" in text


@pytest.mark.parametrize("case", CASES, indirect=True)
@pytest.mark.usefixtures("simulated")
def test_gradients_of_weights_are_sums_over_shards(case, rng):
    op, shapes, size, dtype = case
    x, dy = (jnp.asarray(rng.standard_normal((2 * SHARDS, 3, size)), dtype) for _ in range(2))
    weights = [rng.standard_normal(shape).astype("float32") * 2**-0.5 for shape in shapes]
    y, dx, *dweights = jax.jit(functools.partial(on_shards, op))(x, dy, weights)
    alone = jax.jit(functools.partial(with_gradients, op))
    parts = [alone(x[i : i + 2], dy[i : i + 2], weights) for i in range(0, len(x), 2)]
    rows, drows, *sums = zip(*parts, strict=True)
    np.testing.assert_array_equal(y, np.concatenate(rows))
    np.testing.assert_array_equal(dx, np.concatenate(drows))
    for found, terms in zip(dweights, sums, strict=True):
        assert_close("gradient", found, np.sum(np.asarray(terms, np.float64), 0), 1e-6)

"""Monarch products whose blocks are packed into groups, in the interpreter of TPUs and compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structlayers._core.pallas import interpret_tpu_kernels, tpu_races
from structlayers.butterfly import monarch_multiply
from structlayers.butterfly.monarch.shapes import MonarchSizes, monarch_sizes
from structlayers.butterfly.ops import monarch
from structlayers.butterfly.pallas_tpu.monarch.apply import Settings, _multiply
from structlayers.butterfly.pallas_tpu.monarch.groups import Groups, find_groups, tile_rows
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
)
from structlayers.testing.tpu import TpuCompiler, skip_without_compiler
from tests.butterfly.dense_oracle import random_array

pytestmark = pytest.mark.pallas

SQUARE = ((32, 32, 32), (32, 32, 32))
SMALL = ((4, 64, 64), (4, 64, 64))  # two groups of two blocks
BOUNDS = {"float32": 2e-6, "bfloat16": 1e-2}

# blocks1, blocks2, batch, inputs, outputs
CASES = {
    "square root": (*SQUARE, (19,), 1024, 1024),
    "32 groups": ((64, 64, 64), (64, 64, 64), (16,), 4096, 4096),
    "several tiles and a part": (*SMALL, (4, 67), 256, 256),
    "rectangular, padded and cut": ((4, 128, 128), (4, 384, 128), (17,), 500, 1501),
    "fewer outputs, two blocks in a group": ((4, 192, 384), (4, 128, 192), (33,), 1536, 512),
    "factors with different numbers of blocks": ((4, 128, 128), (8, 64, 64), (18,), 512, 512),
    "batch of one": (*SMALL, (1,), 256, 256),
    "vector": (*SMALL, (), 256, 256),
}


@pytest.fixture(autouse=True)
def _interpreted(request):
    if "compiler" in request.fixturenames:
        yield
        return
    with interpret_tpu_kernels():
        yield
    assert not tpu_races()


def arrays(rng, shape1, shape2, batch, inputs, dtype="float32"):
    blocks = (random_array(rng, shape) / np.sqrt(shape[-1]) for shape in (shape1, shape2))
    x = jnp.asarray(random_array(rng, (*batch, inputs)), dtype)
    return (x, *(jnp.asarray(b, jnp.float32) for b in blocks))


def run(implementation, **options):
    return jax.jit(functools.partial(monarch_multiply, implementation=implementation, **options))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, rng):
    shape1, shape2, batch, inputs, outputs = CASES[case]
    args = arrays(rng, shape1, shape2, batch, inputs, dtype)
    assert_gradients_match(
        run("pallas_tpu", out_features=outputs),
        run("reference", out_features=outputs),
        args,
        BOUNDS[dtype],
    )


@pytest.mark.parametrize("shape", [(0, 256), (3, 0, 250)])
def test_empty_batches(shape, rng):
    _, *blocks = arrays(rng, *SMALL, (), 256)
    out, pull = jax.vjp(run("pallas_tpu", out_features=200), jnp.zeros(shape), *blocks)
    assert out.shape == (*shape[:-1], 200)
    assert not any(np.any(gradient) for gradient in pull(out)[1:])


def test_gradients_are_equal_bit_by_bit_when_run_again(rng):
    args = arrays(rng, *SMALL, (300,), 256)
    pull = jax.jit(lambda *args: jax.vjp(run("pallas_tpu"), *args)[1](args[0]))
    for once, again in zip(pull(*args), pull(*args), strict=True):
        np.testing.assert_array_equal(once, again)


def test_residuals_are_the_inputs(rng):
    args = arrays(rng, *SMALL, (16,), 256)
    settings = Settings(
        find_groups(monarch_sizes(*args[1:]), 128), jax.lax.Precision.HIGHEST, 16 << 20, True
    )
    _, pull = jax.vjp(functools.partial(_multiply, settings=settings), *args)
    kept = [leaf.size for leaf in jax.tree.leaves(pull) if np.size(leaf) > 1]
    assert sorted(kept) == sorted(array.size for array in args)


def test_transformations_agree(rng):
    multiply = run("pallas_tpu")
    x, blocks1, blocks2 = (
        jnp.stack(several)
        for several in zip(*(arrays(rng, *SMALL, (5,), 256) for _ in range(3)), strict=True)
    )
    rows = jnp.stack([multiply(*args) for args in zip(x, blocks1, blocks2, strict=True)])
    assert_close("vmap", jax.vmap(multiply)(x, blocks1, blocks2), rows, 1e-6)
    alike = jax.vmap(multiply, (0, None, None))(x, blocks1[0], blocks2[0])
    assert_close("vmap of data", alike, multiply(x, blocks1[0], blocks2[0]), 1e-6)

    def loss(x, blocks1, blocks2):
        return jnp.sum(multiply(x, blocks1, blocks2) ** 2)

    gradient = jax.grad(loss, (0, 1, 2))
    each = [gradient(*args) for args in zip(x, blocks1, blocks2, strict=True)]
    each = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    assert_close("grad of vmap", jax.vmap(gradient)(x, blocks1, blocks2), each, 1e-6)


def test_second_derivatives(rng):
    args = arrays(rng, *SMALL, (3,), 256)

    def gradient_norm(x, blocks1, blocks2, implementation):
        def loss(*args):
            return jnp.sum(monarch_multiply(*args, implementation=implementation) ** 3)

        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1, 2))(x, blocks1, blocks2))

    second = jax.jit(jax.grad(gradient_norm, (0, 1, 2)), static_argnums=3)
    with jax.enable_x64(True):
        wide = second(*(np.asarray(a, np.float64) for a in args), "reference")
        wide = jax.tree.map(np.asarray, wide)
    assert_close("grad of grad", second(*args, "pallas_tpu"), wide, 5e-6)


def test_sharded_batches(rng):
    args = tuple(map(np.asarray, arrays(rng, *SMALL, (8, 16), 256)))
    multiply = functools.partial(monarch_multiply, implementation="pallas_tpu")
    with interpret_tpu_kernels(plain=True):
        assert_sharded_equals_single(multiply, args, (0, None, None), bound=2e-6)


@pytest.mark.parametrize(
    ("sizes", "width", "groups"),
    [
        (MonarchSizes(32, 32, 32, 32, 32, 32), 128, Groups(8, 128, 128, 128)),
        (MonarchSizes(32, 32, 32, 32, 32, 32), 256, Groups(4, 256, 256, 256)),
        (MonarchSizes(64, 64, 64, 64, 64, 64), 128, Groups(32, 128, 128, 128)),
        (MonarchSizes(4, 192, 192, 4, 768, 192), 128, Groups(2, 384, 384, 1536)),
        (MonarchSizes(4, 256, 256, 4, 1024, 256), 256, Groups(4, 256, 256, 1024)),
    ],
)
def test_groups_fill_the_matrix_unit(sizes, width, groups):
    assert find_groups(sizes, width) == groups


def test_tiles_are_as_tall_as_vmem_allows():
    groups = Groups(8, 128, 128, 128)
    assert tile_rows(groups, 2, 4096, 16 << 20, backward=False) == 256
    assert tile_rows(groups, 2, 40, 16 << 20, backward=False) == 32
    assert tile_rows(groups, 4, 4096, 4 << 20, backward=True) == 32
    with pytest.raises(NotImplementedError, match="MiB of VMEM backward"):
        tile_rows(groups, 4, 4096, 1 << 20, backward=True)


@pytest.mark.parametrize(
    ("rows", "shapes", "name"),
    [
        (4096, SQUARE, "pallas_tpu"),
        (4096, ((4, 192, 192), (4, 768, 192)), "pallas_tpu"),
        (16, SQUARE, "xla"),
        (4096, ((3, 33, 33), (3, 33, 33)), "dense"),
    ],
)
def test_the_choice_on_tpu(rows, shapes, name, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    (k, _, p), (blocks, s, _) = shapes
    x = jax.ShapeDtypeStruct((rows, k * p), "bfloat16")
    factors = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    choice = monarch.dispatcher.choose(x, *factors, platform="tpu", out_features=blocks * s)
    assert choice.name == name
    if name == "pallas_tpu":
        assert "compiled estimates" in choice.why


def both(x, blocks1, blocks2):
    """Forward and backward, for the compiler."""
    out, pull = jax.vjp(
        functools.partial(monarch_multiply, implementation="pallas_tpu"), x, blocks1, blocks2
    )
    return pull(out)


@pytest.fixture(scope="module")
def compiler():
    skip_without_compiler()
    with TpuCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize(
    ("dtype", "shapes", "batch"),
    [("bfloat16", SQUARE, 250), ("float32", ((4, 128, 128), (4, 256, 128)), 256)],
)
def test_every_generation_compiles_both_directions(dtype, shapes, batch, compiler):
    x = jax.ShapeDtypeStruct((batch, shapes[0][0] * shapes[0][2]), dtype)
    blocks = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    for row in compiler.compile(f"{__file__}:both", x, *blocks):
        assert row.compiled, f"{row.target}: {row.error}"
        assert len(row.kernels) == 2
        assert row.mxu_share is not None
        assert row.mxu_share > 0

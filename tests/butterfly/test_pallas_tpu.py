"""The TPU kernels in the interpreter of TPUs, and through the compilers of five generations."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from structlayers._core.pallas import interpret_tpu_kernels, tpu_races
from structlayers._core.precision import canonicalize_precision
from structlayers.butterfly import (
    bit_reversal_permutation,
    block_butterfly_multiply,
    butterfly_multiply,
    merge_butterfly,
    monarch_multiply,
    twiddle_shape,
)
from structlayers.butterfly.ops import block_multiply, monarch, multiply
from structlayers.butterfly.pallas_tpu import support
from structlayers.butterfly.pallas_tpu.apply import apply_chain
from structlayers.butterfly.pallas_tpu.chain import Chain, Factor
from structlayers.butterfly.pallas_tpu.memory import plan
from structlayers.testing import (
    assert_close,
    assert_gradients_match,
    assert_sharded_equals_single,
)
from structlayers.testing.tpu import TpuCompiler, skip_without_compiler
from tests.butterfly.dense_oracle import dense_oracle, random_array, random_twiddle

pytestmark = pytest.mark.pallas

BOUNDS = {"float32": 2e-6, "complex64": 2e-6, "bfloat16": 1e-2}


@pytest.fixture(autouse=True)
def _interpreted(request):
    if {"compiler", "not_interpreted"} & set(request.fixturenames):
        yield
        return
    with interpret_tpu_kernels():
        yield
    assert not tpu_races()


@pytest.fixture
def not_interpreted():
    """For a test of what happens without the interpreter."""


def data(rng, shape, dtype):
    if dtype == "bfloat16":
        return jnp.asarray(random_array(rng, shape), dtype)
    return jnp.asarray(random_array(rng, shape, dtype))


def weights(rng, shape, dtype):
    return jnp.asarray(
        random_twiddle(rng, shape, "complex64" if dtype == "complex64" else "float32")
    )


def kernel(function, **options):
    return jax.jit(functools.partial(function, implementation="pallas_tpu", **options))


def reference(function, **options):
    return jax.jit(functools.partial(function, implementation="reference", **options))


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "one matrix": ((128, (5,), "float32"), {}, {}),
    "two tiles and a part": ((512, (37,), "float32"), {}, {}),
    "decreasing": ((512, (16,), "float32"), {}, {"increasing_stride": False}),
    "tied": ((512, (18,), "float32"), {"tied": True}, {}),
    "two passes across registers": ((2048, (17,), "float32"), {}, {"increasing_stride": False}),
    "bfloat16": ((1024, (33,), "bfloat16"), {}, {}),
    "bfloat16 tied": ((512, (16,), "bfloat16"), {"tied": True}, {"increasing_stride": False}),
    "complex": ((512, (20,), "complex64"), {}, {}),
    "complex tied": ((256, (3,), "complex64"), {"tied": True}, {"increasing_stride": False}),
    "rectangular stacks of blocks": (
        (256, (3, 7), "float32"),
        {"stacks": 2, "blocks": 2},
        {"permutation": bit_reversal_permutation(256), "out_features": 391},
    ),
    "batch of one": ((256, (1,), "float32"), {}, {}),
    "vector": ((256, (), "float32"), {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, rng):
    (n, batch, dtype), form, options = CASES[case]
    x = data(rng, (*batch, n - 9 if form.get("stacks") else n), dtype)
    twiddle = weights(rng, twiddle_shape(n, **form), dtype)
    assert_gradients_match(
        kernel(butterfly_multiply, **options),
        reference(butterfly_multiply, **options),
        (x, twiddle),
        BOUNDS[dtype],
    )


@pytest.mark.parametrize(
    ("radices", "tied", "increasing_stride"),
    [((256, 3), (), True), ((16, 16, 4), (0,), False), ((128, 2, 5), (0, 1), True)],
)
def test_blocks_of_any_radix(radices, tied, increasing_stride, rng):
    n, stride, blocks = math.prod(radices), 1, []
    for g, radix in enumerate(radices):
        copies = 1 if g in tied else n // (radix * stride)
        values = rng.standard_normal((1, copies, stride, radix, radix)) / np.sqrt(radix)
        blocks.append(jnp.asarray(values.astype(np.float32)))
        stride *= radix
    x = data(rng, (19, n), "float32")
    options = {"increasing_stride": increasing_stride}
    assert_gradients_match(
        kernel(block_butterfly_multiply, **options),
        reference(block_butterfly_multiply, **options),
        (x, tuple(blocks)),
        2e-6,
    )


def test_monarch_of_square_blocks(rng):
    blocks = (random_array(rng, (3, 128, 128)) / 11, random_array(rng, (128, 3, 3)) / 2)
    args = (data(rng, (17, 380), "float32"), *(b.astype(np.float32) for b in blocks))
    options = {"out_features": 300}
    assert_gradients_match(
        kernel(monarch_multiply, **options), reference(monarch_multiply, **options), args, 2e-6
    )


@pytest.mark.parametrize("shape", [(0, 256), (3, 0, 250)])
def test_empty_batches(shape, rng):
    twiddle = weights(rng, twiddle_shape(256), "float32")
    x = data(rng, shape, "float32")
    out, pull = jax.vjp(kernel(butterfly_multiply), x, twiddle)
    assert out.shape == (*shape[:-1], 256)
    dx, dtwiddle = pull(out)
    assert dx.shape == shape
    assert not np.any(dtwiddle)


def test_bfloat16_keeps_wide_values_between_the_factors(rng):
    """One rounding of the operands and one of the result, however many factors there are."""
    n = 512
    x = data(rng, (16, n), "bfloat16")
    identities = np.broadcast_to(np.eye(2, dtype=np.float32), (1, 1, 7, n // 2, 2, 2))
    twiddle = np.concatenate([identities, random_twiddle(rng, (1, 1, 2, n // 2, 2, 2))], axis=2)
    out = kernel(butterfly_multiply)(x, twiddle)
    expected = np.asarray(x, np.float64) @ dense_oracle(np.asarray(twiddle, np.float64)).T
    assert_close("product", out, expected, float(jnp.finfo(jnp.bfloat16).eps) / 2)


def test_gradients_are_equal_bit_by_bit_when_run_again(rng):
    x, dy = (data(rng, (50, 512), "float32") for _ in range(2))
    twiddle = weights(rng, twiddle_shape(512), "float32")
    pull = jax.jit(lambda x, t, dy: jax.vjp(kernel(butterfly_multiply), x, t)[1](dy))
    for once, again in zip(pull(x, twiddle, dy), pull(x, twiddle, dy), strict=True):
        np.testing.assert_array_equal(once, again)


def test_residuals_are_the_inputs(rng):
    x = data(rng, (16, 512), "float32")
    blocks = merge_butterfly(weights(rng, twiddle_shape(512), "float32"), (128, 2, 2))
    _, pull = jax.vjp(
        functools.partial(apply_chain, precision=canonicalize_precision(None)), x, tuple(blocks)
    )
    kept = [leaf.size for leaf in jax.tree.leaves(pull) if np.size(leaf) > 1]
    assert sorted(kept) == sorted(array.size for array in (x, *blocks))


def test_transformations_agree(rng):
    n = 256
    run = kernel(butterfly_multiply)
    x = data(rng, (4, 3, n), "float32")
    twiddles = weights(rng, (4, *twiddle_shape(n)), "float32")
    rows = jnp.stack([run(x[i], twiddles[i]) for i in range(4)])
    assert_close("vmap", jax.vmap(run)(x, twiddles), rows, 1e-6)
    alike = jax.vmap(run, (0, None))(x, twiddles[0])
    assert_close("vmap of data", alike, run(x, twiddles[0]), 1e-6)

    def loss(x, twiddle):
        return jnp.sum(run(x, twiddle) ** 2)

    each = jnp.stack([jax.grad(loss, 1)(x[i], twiddles[i]) for i in range(4)])
    assert_close("grad of vmap", jax.vmap(jax.grad(loss, 1))(x, twiddles), each, 1e-6)


def test_scan_of_remat(rng):
    """In the plain interpreter: JAX does not differentiate callbacks under remat."""
    x = data(rng, (3, 256), "float32")
    twiddles = weights(rng, (3, *twiddle_shape(256)), "float32")

    def loss(x, twiddles, implementation):
        run = functools.partial(butterfly_multiply, implementation=implementation)

        def step(carry, twiddle):
            return jax.checkpoint(run)(carry, twiddle), None

        return jnp.sum(jax.lax.scan(step, x, twiddles)[0] ** 2)

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    with interpret_tpu_kernels(plain=True):
        found = gradients(x, twiddles, "pallas_tpu")
    assert_close("scan of remat", found, gradients(x, twiddles, "reference"), 2e-6)


def test_second_derivatives(rng):
    x = data(rng, (3, 256), "float32")
    twiddle = weights(rng, twiddle_shape(256), "float32")

    def gradient_norm(x, twiddle, implementation):
        def loss(x, twiddle):
            out = butterfly_multiply(x, twiddle, implementation=implementation)
            return jnp.sum(out**3)

        dx, dtwiddle = jax.grad(loss, (0, 1))(x, twiddle)
        return jnp.sum(dx**2) + jnp.sum(dtwiddle**2)

    second = jax.jit(jax.grad(gradient_norm, (0, 1)), static_argnums=2)
    with jax.enable_x64(True):
        wide = second(np.asarray(x, np.float64), np.asarray(twiddle, np.float64), "reference")
        wide = jax.tree.map(np.asarray, wide)
    assert_close("grad of grad", second(x, twiddle, "pallas_tpu"), wide, 5e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_sharded_batches(axis, rng):
    x = random_array(rng, (8, 16, 256) if axis == 0 else (3, 16, 256))
    twiddle = random_twiddle(rng, twiddle_shape(256))
    run = functools.partial(butterfly_multiply, implementation="pallas_tpu")
    with interpret_tpu_kernels(plain=True):
        assert_sharded_equals_single(run, (x, twiddle), (axis, None), bound=2e-6)


def struct(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("x", "radices", "reason"),
    [
        (("float32", 64), None, "below the 128 lanes"),
        (("float16", 256), None, "not float16"),
        (("complex128", 256), None, "not complex128"),
        (("float32", 131072), None, "MiB of VMEM"),
        (("float32", 768), (3, 256), "at stride 768 only"),
        (("float32", 96), (3, 32), "no multiple of the 128 lanes"),
        (("float32", 16384), (128, 128), "radix 128 across registers is above 16"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(x, radices, reason):
    dtype, n = x
    weight_dtype = dtype if dtype.startswith("complex") else "float32"
    if radices is None:
        dispatcher = multiply.dispatcher
        arrays = (struct(twiddle_shape(n), weight_dtype), None)
    else:
        dispatcher = block_multiply.dispatcher
        strides = [math.prod(radices[:g]) for g in range(len(radices))]
        shapes = [(1, n // (r * s), s, r, r) for r, s in zip(radices, strides, strict=True)]
        arrays = (tuple(map(struct, shapes)),)
    with pytest.raises(NotImplementedError, match=reason):
        dispatcher.choose(
            struct((4, n), dtype), *arrays, implementation="pallas_tpu", platform="tpu"
        )


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((6, 128, 128), (6, 128, 128)), "complex numbers only where"),
        (((4, 250, 250), (4, 250, 250)), "do not pack into 2 to 32 groups"),
        (((6, 192, 128), (6, 128, 192)), "do not pack into 2 to 32 groups"),
        (((3, 129, 128), (3, 128, 129)), "do not pack into 2 to 32 groups"),
        (((128, 128, 128), (128, 128, 128)), "MiB of VMEM forward"),
        (((8, 16, 16), (16, 8, 8)), "do not pack into 2 to 32 groups"),
    ],
)
def test_monarch_matrices_that_are_not_served(shapes, reason):
    dtype = "complex64" if "complex" in reason else "float32"
    x = struct((4, shapes[0][0] * shapes[0][2]), dtype)
    with pytest.raises(NotImplementedError, match=reason):
        monarch.dispatcher.choose(
            x,
            *map(struct, shapes),
            implementation="pallas_tpu",
            platform="tpu",
            out_features=shapes[1][0] * shapes[1][1],
        )


def test_the_choice_on_tpu(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def chosen(n, dtype="float32"):
        twiddle = struct(twiddle_shape(n))
        return multiply.dispatcher.choose(
            struct((4096, n), dtype), twiddle, None, platform="tpu", precision=None
        )

    assert chosen(64).name == "dense"
    assert chosen(4096, "bfloat16").name == "pallas_tpu"
    assert "compiled estimates" in chosen(4096).why
    assert chosen(131072).name == "xla"
    assert "VMEM" in chosen(131072).rejected["pallas_tpu"]
    blocks = tuple(map(struct, ((1, 3, 1, 256, 256), (1, 1, 256, 3, 3))))
    choice = block_multiply.dispatcher.choose(struct((4, 768)), blocks, platform="tpu")
    assert choice.name == "pallas_tpu"

    # among several devices it is taken unasked only where the sharding is known
    monkeypatch.undo()
    assert chosen(4096).name == "xla"
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        assert chosen(4096).name == "pallas_tpu"


def test_other_platforms_are_refused(not_interpreted):
    with pytest.raises(NotImplementedError, match="this is gpu"):
        multiply.dispatcher.choose(
            struct((4, 256)),
            struct(twiddle_shape(256)),
            None,
            implementation="pallas_tpu",
            platform="gpu",
        )


def test_tiles_fit_and_are_as_tall_as_that_allows():
    chain = Chain(1024, (Factor(8, 1, 128), *(Factor(512 // s, s, 2) for s in (128, 256, 512))))
    vmem = 16 << 20
    tall, low = (plan(chain, 1, 2, batch, vmem, backward=False) for batch in (4096, 40))
    assert tall.rows == 256
    assert low.rows == 32
    assert plan(chain, 1, 2, 1, vmem, backward=False).rows == 16
    for planes in (1, 2):
        for backward in (True, False):
            assert plan(chain, planes, 4, 4096, vmem, backward=backward).bytes <= vmem


@pytest.mark.parametrize(
    ("dtype", "mebibytes", "width", "largest"),
    [
        ("bfloat16", 16, 128, 4096),
        ("float32", 64, 128, 16384),
        ("float32", 64, 256, 16384),
        ("complex64", 128, 256, 16384),
    ],
)
def test_the_largest_size_served(dtype, mebibytes, width, largest, monkeypatch):
    monkeypatch.setattr(support, "tpu_vmem_bytes", lambda: mebibytes << 20)
    monkeypatch.setattr(support, "tpu_matrix_width", lambda: width)

    def check(n):
        x, twiddle = struct((4, n), dtype), struct(twiddle_shape(n))
        support.check_butterfly(x, twiddle, platform="tpu")

    check(largest)
    with pytest.raises(NotImplementedError, match="MiB of VMEM backward"):
        check(2 * largest)


def both(x, twiddle):
    """Forward and backward, for the compiler."""
    out, pull = jax.vjp(
        functools.partial(butterfly_multiply, implementation="pallas_tpu"), x, twiddle
    )
    return pull(out)


@pytest.fixture(scope="module")
def compiler():
    skip_without_compiler()
    with TpuCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize(
    ("n", "dtype", "tied"), [(512, "float32", True), (1024, "bfloat16", False)]
)
def test_every_generation_compiles_both_directions(n, dtype, tied, compiler):
    rows = compiler.compile(
        f"{__file__}:both", struct((256, n), dtype), struct(twiddle_shape(n, tied=tied))
    )
    for row in rows:
        assert row.compiled, f"{row.target}: {row.error}"
        assert len(row.kernels) == 2
        assert row.mxu_share is not None
        assert row.mxu_share > 0

"""The products by the kernel for Hopper GPUs: lowered for CUDA, run where there is a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from structlayers._core.dispatch import assume_platform
from structlayers.equivariant import differentiable, gaunt_tensor_product, many_body_product
from structlayers.equivariant.ops.gaunt import dispatcher
from structlayers.equivariant.ops.many_body import dispatcher as many_body_dispatcher
from structlayers.equivariant.pallas_gpu import apply, support
from structlayers.equivariant.pointwise import (
    powers,
    product_of,
)
from structlayers.testing import error_ratio
from tests.equivariant.kernel_cases import (
    BOUNDS,
    NATURAL,
    by_coefficients,
    exact,
    random_rows,
)


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
    def choice(rows, precision="tf32", degrees=(3, 3, 3), platform="gpu", dtype="float32"):
        l1, l2, lmax = degrees
        x = jax.ShapeDtypeStruct((rows, 128, (l1 + 1) ** 2), dtype)
        y = jax.ShapeDtypeStruct((rows, 1, (l2 + 1) ** 2), dtype)
        static = {"lmax": lmax, "grid": "gauss_legendre", "precision": precision}
        return dispatcher.choose(x, y, platform=platform, **static).name

    # 353 and 5,605 terms a row, few of which are summed
    assert [choice(rows) for rows in (23, 24)] == ["sparse", "pallas_gpu"]
    assert [choice(rows, degrees=(5, 5, 10)) for rows in (1, 2)] == ["sparse", "pallas_gpu"]
    assert [choice(rows, degrees=(6, 6, 12)) for rows in (7, 8)] == ["xla", "pallas_gpu"]
    assert [choice(rows, degrees=(9, 9, 9)) for rows in (78, 79)] == ["xla", "pallas_gpu"]
    assert choice(79, "3xtf32") == choice(79, "bf16", dtype="bfloat16") == "pallas_gpu"
    # not timed
    assert choice(78, "3xtf32") == choice(79, "3xtf32", (9, 9, 9)) == "xla"
    assert choice(5000, "bf16") == choice(5000, platform="tpu") == "xla"
    # of few terms, and what the kernel does not serve
    assert choice(79, degrees=(1, 1, 2)) == "sparse"
    assert choice(79, degrees=(7, 7, 14)) == choice(5000, jax.lax.Precision.HIGHEST) == "xla"


def test_none_takes_the_kernel_of_powers_where_it_was_measured():
    def choice(rows, precision="tf32", law=(3, 3, 2), platform="gpu", dtype="float32"):
        degree, order, lmax = law
        x = jax.ShapeDtypeStruct((rows, 128, (degree + 1) ** 2), dtype)
        static = {"order": order, "lmax": lmax, "grid": "gauss_legendre", "precision": precision}
        return many_body_dispatcher.choose(x, platform=platform, **static).name

    for law in ((3, 3, 2), (5, 3, 5), (1, 7, 1)):
        assert [choice(rows, law=law) for rows in (31, 32)] == ["xla", "pallas_gpu"]
    for law in ((3, 2, 3), (6, 3, 6), (1, 8, 1), (1, 3, 2)):
        assert choice(5000, law=law) == "xla"
    assert [choice(rows, "3xtf32") for rows in (4999, 5000)] == ["xla", "pallas_gpu"]
    assert choice(5000, "bf16", dtype="bfloat16") == "pallas_gpu"
    assert choice(5000, "bf16") == choice(5000, "3xtf32", (3, 3, 3)) == "xla"
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

"""A Pallas kernel, which XLA cannot partition, run per shard of its batch."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from structlayers._core.partitioning import partition_over_batch, result_struct, shard_batch_over
from structlayers.testing import assert_close

pytestmark = pytest.mark.pallas

BLOCK = 2
MODES = ("automatic", "automatic_in_mesh", "explicit", "named")


def _kernel(x_ref, w_ref, o_ref):
    o_ref[...] = jnp.dot(x_ref[...], w_ref[...], precision="highest")


def _pallas_matmul(x, w):
    rows, inner = x.shape
    block = min(BLOCK, rows)
    return pl.pallas_call(
        _kernel,
        out_shape=result_struct((rows, w.shape[1]), x.dtype, x, w),
        grid=(rows // block,),
        in_specs=[
            pl.BlockSpec((block, inner), lambda i: (i, 0)),
            pl.BlockSpec(w.shape, lambda i: (0, 0)),
        ],
        out_specs=pl.BlockSpec((block, w.shape[1]), lambda i: (i, 0)),
        interpret=True,
    )(x, w)


@jax.custom_vjp
def kernel_matmul(x, w):
    return _pallas_matmul(x, w)


def _backward(residuals, g):
    x, w = residuals
    return kernel_matmul(g, w.T), kernel_matmul(x.T, g)


kernel_matmul.defvjp(lambda x, w: (kernel_matmul(x, w), (x, w)), _backward)
partitioned = partition_over_batch(kernel_matmul, batched=(True, False))


def reference(x, w):
    return jnp.dot(x, w, precision="highest")


def _loss(fn):
    return lambda x, w: jnp.sum(jnp.sin(fn(x, w)))


def _gradient(fn):
    return jax.grad(_loss(fn), (0, 1))


def _second_gradient(fn):
    return jax.grad(lambda x, w: sum(jnp.sum(g**2) for g in _gradient(fn)(x, w)), (0, 1))


def _scan(fn):
    def run(x, w):
        def step(carry, _):
            return jnp.tanh(fn(carry, w)), None

        return jax.lax.scan(step, x, None, length=3)[0]

    return run


TRANSFORMS = {
    "value": lambda fn: fn,
    "gradient": _gradient,
    "second_gradient": _second_gradient,
    "vmap_inputs": lambda fn: lambda x, w: jax.vmap(fn, (0, None))(jnp.stack([x, -x]), w),
    "vmap_weights": lambda fn: lambda x, w: jax.vmap(fn, (None, 0))(x, jnp.stack([w, -w])),
    "gradient_of_vmap": lambda fn: _gradient(
        lambda x, w: jax.vmap(fn, (None, 0))(x, jnp.stack([w, 2 * w]))
    ),
    "vmap_of_gradient": lambda fn: (
        lambda x, w: jax.vmap(_gradient(fn), (None, 0))(x, jnp.stack([w, 2 * w]))
    ),
    "remat": lambda fn: _gradient(jax.checkpoint(fn)),
    "scan": _scan,
    "gradient_of_scan": lambda fn: _gradient(_scan(fn)),
}


@pytest.fixture
def operands(rng):
    x, w = rng.standard_normal((16, 4)), rng.standard_normal((4, 4))
    return x.astype(np.float32), w.astype(np.float32)


def _mesh(mode, shape=(8,), names=("data",)):
    kind = AxisType.Explicit if mode == "explicit" else AxisType.Auto
    return jax.make_mesh(shape, names, (kind,) * len(shape))


@contextlib.contextmanager
def _sharded(mode, arrays, specs, mesh):
    """Yields the arrays placed on the mesh, within the context that the mode needs."""
    with contextlib.ExitStack() as stack:
        if mode != "automatic":
            stack.enter_context(jax.set_mesh(mesh))
        if mode == "named":
            stack.enter_context(shard_batch_over(*mesh.axis_names))
        yield tuple(
            jax.device_put(array, NamedSharding(mesh, spec))
            for array, spec in zip(arrays, specs, strict=True)
        )


def _collectives(text):
    return set(re.findall("all-gather|all-reduce|all-to-all|collective-permute", text))


def test_the_compiler_gathers_the_batch_of_a_bare_kernel(operands):
    with _sharded("automatic", operands, (P("data"), P()), _mesh("automatic")) as args:
        bare = jax.jit(kernel_matmul).lower(*args).compile().as_text()
        ours = jax.jit(partitioned).lower(*args).compile().as_text()
    assert "all-gather" in _collectives(bare)
    assert not _collectives(ours)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mode", MODES)
def test_sharded_equals_single_device(mode, name, operands):
    transform = TRANSFORMS[name]
    expected = jax.tree.map(np.asarray, transform(reference)(*map(jnp.asarray, operands)))
    with _sharded(mode, operands, (P("data"), P()), _mesh(mode)) as args:
        jitted = jax.jit(transform(partitioned))
        found = jitted(*args)
        collectives = _collectives(jitted.lower(*args).compile().as_text())
    assert_close(name, found, expected, 1e-5)
    # Gradients of the replicated weights are summed; nothing is gathered or moved.
    assert collectives <= ({"all-reduce"} if "gradient" in name or name == "remat" else set())


@pytest.mark.parametrize("mode", MODES)
def test_without_jit(mode, operands):
    expected = np.asarray(reference(*map(jnp.asarray, operands)))
    with _sharded(mode, operands, (P("data"), P()), _mesh(mode)) as args:
        found = partitioned(*args)
        assert found.sharding.spec[0] == "data"
    assert_close("value", found, expected, 1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_device(name, operands):
    args = tuple(map(jnp.asarray, operands))
    transform = TRANSFORMS[name]
    assert_close(name, transform(partitioned)(*args), transform(reference)(*args), 1e-5)


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("manual", [("data",), ("data", "model")])
def test_inside_shard_map(manual, check_vma, operands):
    # The Pallas interpreter cannot run with check_vma, whoever calls it: plain products then.
    if check_vma:
        inner = jax.custom_vjp(reference)
        inner.defvjp(
            lambda x, w: (reference(x, w), (x, w)),
            lambda res, g: (reference(g, res[1].T), reference(res[0].T, g)),
        )
        fn = partition_over_batch(inner, batched=(True, False))
    else:
        fn = partitioned
    mapped = jax.shard_map(
        fn,
        mesh=_mesh("automatic", (4, 2), ("data", "model")),
        in_specs=(P("data"), P()),
        out_specs=P("data"),
        axis_names=set(manual),
        check_vma=check_vma,
    )
    args = tuple(map(jnp.asarray, operands))
    assert_close("value", jax.jit(mapped)(*args), reference(*args), 1e-6)
    found = jax.jit(_gradient(mapped))(*args)
    assert_close("gradient", found, _gradient(reference)(*args), 1e-5)


@pytest.mark.parametrize("mode", ["automatic", "explicit"])
def test_sharded_weights_are_gathered_and_the_batch_is_not(mode, operands):
    mesh = _mesh(mode, (4, 2), ("data", "model"))
    expected = np.asarray(reference(*map(jnp.asarray, operands)))
    with _sharded(mode, operands, (P("data"), P(None, "model")), mesh) as args:
        found = jax.jit(partitioned)(*args)
        text = jax.jit(partitioned).lower(*args).compile().as_text()
        assert found.sharding.spec[0] == "data"
    assert_close("value", found, expected, 1e-6)
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text or "")
    assert gathered == ["4,4"]


@pytest.mark.parametrize("mode", MODES)
def test_batch_over_two_mesh_axes(mode, operands):
    mesh = _mesh(mode, (4, 2), ("data", "model"))
    expected = jax.tree.map(np.asarray, _gradient(reference)(*map(jnp.asarray, operands)))
    with _sharded(mode, operands, (P(("data", "model")), P()), mesh) as args:
        found = jax.jit(_gradient(partitioned))(*args)
        text = jax.jit(partitioned).lower(*args).compile().as_text()
    assert_close("gradient", found, expected, 1e-5)
    assert not _collectives(text)


def _batched_matmul(x, w):
    return jnp.einsum("abi,io->abo", x, w, precision="highest")


@pytest.mark.parametrize("mode", ["automatic", "explicit"])
def test_two_batch_axes(mode, rng):
    x = rng.standard_normal((4, 6, 3)).astype(np.float32)
    w = rng.standard_normal((3, 5)).astype(np.float32)
    fn = partition_over_batch(_batched_matmul, batched=(True, False), num_batch_axes=2)
    mesh = _mesh(mode, (4, 2), ("data", "model"))
    expected = np.asarray(_batched_matmul(jnp.asarray(x), jnp.asarray(w)))
    with _sharded(mode, (x, w), (P("data", "model"), P()), mesh) as args:
        found = jax.jit(fn)(*args)
        text = jax.jit(fn).lower(*args).compile().as_text()
        assert tuple(found.sharding.spec)[:2] == ("data", "model")
    assert_close("value", found, expected, 1e-6)
    assert not _collectives(text)


def _weight_gradient(x, g, *, scale):
    return {"w": scale * kernel_matmul(x.T, g), "count": jnp.asarray(x.shape[0])}


@pytest.mark.parametrize("mode", ["single", *MODES])
def test_outputs_summed_over_the_batch(mode, rng):
    x, g = (rng.standard_normal((16, 4)).astype(np.float32) for _ in range(2))
    fn = partition_over_batch(_weight_gradient, batched=(True, True), outputs="sum")
    expected = 3 * x.astype(np.float64).T @ g
    if mode == "single":
        found = fn(jnp.asarray(x), jnp.asarray(g), scale=3.0)
    else:
        with _sharded(mode, (x, g), (P("data"), P("data")), _mesh(mode)) as args:
            found = jax.jit(lambda x, g: fn(x, g, scale=3.0))(*args)
    assert_close("sum", found["w"], expected, 1e-6)
    assert int(found["count"]) == 16


def _gather_and_scale(tree, index, scale):
    picked = jnp.take_along_axis(tree["x"], index, axis=1)
    return picked * scale, jnp.sum(index, axis=1)


@pytest.mark.parametrize("mode", MODES)
def test_integers_scalars_and_pytrees(mode, rng):
    x = rng.standard_normal((8, 5)).astype(np.float32)
    index = rng.integers(0, 5, (8, 3)).astype(np.int32)
    scale = np.float32(-1.5)
    fn = partition_over_batch(_gather_and_scale, batched=(True, True, False))

    def loss(fn):
        return lambda x, index, scale: jnp.sum(fn({"x": x}, index, scale)[0] ** 3)

    plain = [jnp.asarray(a) for a in (x, index, scale)]
    expected = jax.tree.map(np.asarray, jax.grad(loss(_gather_and_scale), (0, 2))(*plain))
    with _sharded(mode, (x, index, scale), (P("data"), P("data"), P()), _mesh(mode)) as args:
        found = jax.jit(jax.grad(loss(fn), (0, 2)))(*args)
        sums = jax.jit(lambda x, i, s: fn({"x": x}, i, s)[1])(*args)
    assert_close("gradient", found, expected, 1e-6)
    assert np.array_equal(sums, index.sum(1))


@pytest.mark.parametrize("size", [1, 3, 12])
def test_batches_that_the_devices_do_not_divide(size, rng):
    x, w = rng.standard_normal((size, 4)), rng.standard_normal((4, 4))
    args = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    with jax.set_mesh(_mesh("named")), shard_batch_over("data"):
        found = jax.jit(partition_over_batch(reference, batched=(True, False)))(*args)
    assert_close("value", found, reference(*args), 1e-6)


def test_equal_calls_are_traced_once(operands):
    traces = []

    def fn(x, *, power):
        traces.append(power)
        return x**power

    x = jnp.asarray(operands[0])
    for _ in range(3):
        partition_over_batch(fn, batched=(True,))(x, power=2)
    count = len(traces)
    partition_over_batch(fn, batched=(True,))(x, power=2)
    assert len(traces) == count


def test_without_batch_axes():
    def fn(x, w):
        assert x["a"].shape == (1, 3)
        return x["a"] @ w, jnp.sum(x["a"], 0)

    x, w = {"a": jnp.arange(3.0)}, jnp.ones((3, 2))
    run = partition_over_batch(
        fn, batched=(True, False), outputs=("batch", "sum"), num_batch_axes=0
    )
    product, total = jax.jit(run)(x, w)
    assert product.tolist() == [3, 3]
    assert total.tolist() == [0, 1, 2]


def test_bad_calls_are_refused():
    x, w = jnp.ones((4, 3)), jnp.ones((3, 3))
    with pytest.raises(ValueError, match="batched names 2 arguments, got 1"):
        partitioned(x)
    with pytest.raises(ValueError, match=r"must share their 1 leading axes, got shapes \[\(4, 3\)"):
        partition_over_batch(reference, batched=(True, True))(x, w)
    with pytest.raises(ValueError, match="share their 3 leading axes"):
        partition_over_batch(reference, batched=(True, False), num_batch_axes=3)(x, w)
    with pytest.raises(ValueError, match="outputs must be 'batch' or 'sum', got 'mean'"):
        partition_over_batch(reference, batched=(True, False), outputs="mean")(x, w)
    with (
        shard_batch_over("data"),
        pytest.raises(ValueError, match=r"needs a current mesh: enter jax\.set_mesh"),
    ):
        partitioned(x, w)

"""Operands of which some are sharded and others the same on all shards, inside `jax.shard_map`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from structlayers._core.dispatch import assume_platform
from structlayers.gla import (
    gated_linear_attention,
    gated_linear_attention_decode,
    gated_linear_attention_step,
)
from structlayers.gla.ops import step as ops
from structlayers.gla.xla.products import bfloat16_product
from structlayers.testing import assert_close
from tests.gla.cases import inputs, state

ROWS, ALL = P("rows"), P()


def sharded(fn: Callable[..., Any], specs: Sequence[P]) -> Callable[..., Any]:
    """The function on eight devices; its results have rows."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    return jax.shard_map(fn, mesh=mesh, in_specs=tuple(specs), out_specs=ROWS)


def inside(fn: Callable[..., Any], specs: Sequence[P]) -> Callable[..., Any]:
    """Gradients that each shard takes by itself, summed over shards where an operand is one."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))

    def gradients(*arrays: jax.Array) -> Any:
        return jax.grad(lambda *x: total(fn(*x)), tuple(range(len(arrays))))(*arrays)

    specs = tuple(specs)
    return jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=specs)


def total(results: Any) -> jax.Array:
    """A sum in which every element counts otherwise than its neighbours."""
    return sum(
        (jnp.sum(jnp.sin(x.astype(jnp.float32))) for x in jax.tree.leaves(results)),
        jnp.float32(0),
    )


def assert_same(
    fn: Callable[..., Any], arrays: Sequence[Any], specs: Sequence[P], *, outside: bool = True
) -> None:
    """Values and gradients of sharded operands are those of whole ones."""
    arrays = [jnp.asarray(x) for x in arrays]
    places = tuple(range(len(arrays)))
    assert_close("values", jax.jit(sharded(fn, specs))(*arrays), jax.jit(fn)(*arrays), 1e-6)
    # gradients in bfloat16 are rounded before they are added up over the shards
    bound = 1e-5 if all(x.dtype == jnp.float32 for x in arrays) else 5e-3
    whole = jax.jit(jax.grad(lambda *x: total(fn(*x)), places))(*arrays)
    assert_close("by shards", jax.jit(inside(fn, specs))(*arrays), whole, bound)
    if outside:
        run = jax.jit(jax.grad(lambda *x: total(sharded(fn, specs)(*x)), places))
        assert_close("gradients", run(*arrays), whole, bound)


@pytest.mark.parametrize("specs", [(ROWS, ALL), (ALL, ROWS)], ids=["first", "second"])
def test_a_product_in_bfloat16(specs, rng):
    a, b = (rng.standard_normal((8, 3, 4)).astype(np.float32) for _ in range(2))
    whole = [x if spec == ROWS else x[:1] for x, spec in zip((a, b), specs, strict=True)]

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (jnp.broadcast_to(x, (max(len(a), len(b)), 3, 4)) for x in (a, b))
        return bfloat16_product("nij,nkj->nik", a, b)

    assert_same(product, whole, specs)


def test_weights_of_all_shards_in_bfloat16(rng):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 2, 4), (4, 5)))
    assert_same(functools.partial(bfloat16_product, "ntd,dv->ntv"), (x, w), (ROWS, ALL))


# which of q, k, v, the gate and the state lie over the shards
MIXED = {
    "one state and gate for all": (ROWS, ROWS, ROWS, ALL, ALL),
    "queries alone": (ROWS, ALL, ALL, ALL, ALL),
    "values and states": (ALL, ALL, ROWS, ALL, ROWS),
}


def attend(implementation: str, *arrays: jax.Array) -> Any:
    q, k, v, gate, start = spread(*arrays)
    return gated_linear_attention(
        q,
        k,
        v,
        gate,
        initial_state=start,
        output_final_state=True,
        chunk_size=4,
        implementation=implementation,
    )


def spread(*arrays: jax.Array) -> list[jax.Array]:
    """Rows of 1 as many times as the others have."""
    rows = max(len(x) for x in arrays)
    return [jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in arrays]


def draw(rng, specs, dtype="float32", time=6, key=4, value=6) -> list[np.ndarray]:
    arrays = [
        *inputs(rng, (8,), time, 2, 1, key, value, "start", dtype),
        state(rng, 8, 1, key, value),
    ]
    return [x if spec == ROWS else x[:1] for x, spec in zip(arrays, specs, strict=True)]


@pytest.mark.parametrize(
    ("specs", "dtype", "implementation"),
    [
        ("one state and gate for all", "bfloat16", "xla"),
        ("one state and gate for all", "float32", "reference"),
        ("queries alone", "bfloat16", "xla"),
        ("values and states", "float32", "xla"),
    ],
)
def test_attention(specs, dtype, implementation, rng):
    arrays = draw(rng, MIXED[specs], dtype)
    assert_same(functools.partial(attend, implementation), arrays, MIXED[specs], outside=False)


def step(implementation: str | None, *arrays: jax.Array) -> Any:
    q, k, v, gate, start = spread(*arrays)
    return gated_linear_attention_step(q, k, v, gate, start, implementation=implementation)


def decode(implementation: str | None, *arrays: jax.Array) -> Any:
    *rows, scale = arrays
    q, k, v, gate, start = spread(*rows)
    return gated_linear_attention_decode(
        q, k, v, gate, start, jnp.ones((*q.shape[:-1], v.shape[-1]), q.dtype), scale,
        implementation=implementation,
    )  # fmt: skip


def of_one_token(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [*(x[:, 0] for x in arrays[:4]), arrays[4]]


@pytest.mark.parametrize("specs", MIXED.values(), ids=list(MIXED))
def test_one_token(specs, rng):
    arrays = of_one_token(draw(rng, specs))
    assert_same(functools.partial(step, "xla"), arrays, specs)
    scale = rng.standard_normal(6).astype(np.float32)
    assert_same(functools.partial(decode, "xla"), [*arrays, scale], (*specs, ALL))


@pytest.mark.pallas
def test_the_kernel_of_one_token_is_refused_where_its_state_varies(rng):
    """JAX has no references to what varies; without its account of that the kernel lowers."""
    specs = MIXED["one state and gate for all"]
    arrays = of_one_token(draw(rng, specs, "bfloat16", key=32, value=32))
    scale = rng.standard_normal(32).astype(np.float32)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    for fn, operands, where in (
        (functools.partial(step, "pallas_gpu"), arrays, specs),
        (functools.partial(decode, "pallas_gpu"), [*arrays, scale], (*specs, ALL)),
    ):
        with assume_platform("gpu"):
            with pytest.raises(NotImplementedError, match="varies over axes of the mesh, rows:"):
                jax.jit(sharded(fn, where)).trace(*operands)
            run = jax.shard_map(fn, mesh=mesh, in_specs=where, out_specs=ROWS, check_vma=False)
            text = jax.jit(run).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
        assert "mosaic_gpu" in text


def test_none_takes_another_where_the_kernel_cannot_be(rng, monkeypatch):
    """Also where states are in place and large enough for the kernel."""
    monkeypatch.setattr(ops, "_KERNEL_FROM_BYTES", 0)
    specs = MIXED["queries alone"]
    arrays = of_one_token(draw(rng, specs, "bfloat16", key=32, value=32))
    with assume_platform("gpu"), ops.states_in_place():
        text = jax.jit(sharded(functools.partial(step, None), specs)).trace(*arrays).jaxpr
    assert "mosaic" not in str(text)

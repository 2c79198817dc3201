"""The products behind `gaunt_tensor_product` on Hopper GPUs, differentiable to any order.

One trilinear form, T(x, y, z) = sum G x y z, gives the product and its derivatives: that of x is
the product of y and the cotangent, kept up to the degree of x, on the same grid. So the rules below
call each other. Residuals are the inputs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch
from structlayers.equivariant.pallas_gpu.calls import (
    largest_degree,
    products_of_signals,
    table_of,
)
from structlayers.equivariant.pallas_gpu.plan import Mode, Problem, Product, choose_plan

_BOTH = (0, 1)


def gaunt_tensor_product(
    x: jax.Array, y: jax.Array, *, lmax: int, grid: Any, precision: Mode
) -> jax.Array:
    """Evaluates, multiplies and projects in one kernel, for what `support.check` lets pass.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or bfloat16.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast, in memory.
        lmax: L3.
        grid: not used: the kernel has one of its own, exact to L1 + L2 + L3.
        precision: "tf32", "3xtf32" or "bf16".

    Returns:
        `(..., (L3 + 1)^2)` in the dtype of x.
    """
    del grid
    lead = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, y = (jnp.broadcast_to(a, (*lead, a.shape[-1])) for a in (x, y))
    return _product(x, y, lmax, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: jax.Array, y: jax.Array, lmax: int, mode: Mode) -> jax.Array:
    """Product of x and y up to a degree."""
    (z,) = _launch((x, y), (Product(_BOTH, lmax),), mode)
    return z


def _product_forward(x: jax.Array, y: jax.Array, lmax: int, mode: Mode) -> tuple[jax.Array, Any]:
    return _product(x, y, lmax, mode), (x, y)


def _product_backward(
    lmax: int, mode: Mode, residuals: tuple[jax.Array, jax.Array], dz: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del lmax
    return _gradients(*residuals, dz, mode)


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _gradients(
    x: jax.Array, y: jax.Array, dz: jax.Array, mode: Mode
) -> tuple[jax.Array, jax.Array]:
    """Products of y and dz up to the degree of x, and of x and dz up to that of y.

    By one launch where that fits into a multiprocessor, by two otherwise.
    """
    l1, l2, l3 = (largest_degree(a.shape[-1]) for a in (x, y, dz))
    products = (Product((1, 2), l1), Product((0, 2), l2))
    problem = Problem(math.prod(x.shape[:-1]), (l1, l2, l3), products, x.dtype.itemsize, mode)
    try:
        choose_plan(problem)
    except NotImplementedError:
        return _product(y, dz, l1, mode), _product(x, dz, l2, mode)
    dx, dy = _launch((x, y, dz), products, mode)
    return dx, dy


def _gradients_forward(
    x: jax.Array, y: jax.Array, dz: jax.Array, mode: Mode
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    return _gradients(x, y, dz, mode), (x, y, dz)


def _gradients_backward(
    mode: Mode, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # of T(ux, y, dz) + T(x, uy, dz)
    (x, y, dz), (ux, uy) = residuals, cotangents
    l1, l2, l3 = (largest_degree(a.shape[-1]) for a in residuals)
    third = _product(ux, y, l3, mode) + _product(x, uy, l3, mode)
    return _product(uy, dz, l1, mode), _product(ux, dz, l2, mode), third


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _launch(
    arrays: tuple[jax.Array, ...], products: tuple[Product, ...], mode: Mode
) -> tuple[jax.Array, ...]:
    """One kernel on every shard of arrays with the same leading axes."""
    # an argument: functions that are partitioned hold no arrays
    degrees = tuple(largest_degree(a.shape[-1]) for a in arrays)
    table = jnp.asarray(table_of(degrees, products, mode))
    batched = (False, *(True for _ in arrays))
    run = partition_over_batch(_on_shard, batched=batched, num_batch_axes=arrays[0].ndim - 1)
    return run(table, *arrays, products=products, mode=mode)


def _on_shard(
    table: jax.Array, *arrays: jax.Array, products: tuple[Product, ...], mode: Mode
) -> tuple[jax.Array, ...]:
    lead = arrays[0].shape[:-1]
    rows = [a.reshape(math.prod(lead), a.shape[-1]) for a in arrays]
    return tuple(z.reshape(*lead, z.shape[-1]) for z in _batchable(products, mode)(table, *rows))


@functools.lru_cache(maxsize=256)
def _batchable(products: tuple[Product, ...], mode: Mode) -> Any:
    """The kernel on rows with a rule for `jax.vmap`: more rows."""

    @custom_vmap
    def run(table: jax.Array, *rows: jax.Array) -> list[jax.Array]:
        return products_of_signals(table, rows, products, mode)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], table: jax.Array, *rows: jax.Array) -> Any:
        pairs = zip(rows, mapped[1:], strict=True)
        all_rows = [x if on else jnp.broadcast_to(x, (size, *x.shape)) for x, on in pairs]
        found = run(table, *(x.reshape(-1, x.shape[-1]) for x in all_rows))
        return [z.reshape(size, -1, z.shape[-1]) for z in found], [True for _ in found]

    return run

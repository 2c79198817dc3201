"""The products of the family on Hopper GPUs, differentiable to any order.

A result is a sum of products of signals, projected on degrees 0 to L. By the symmetry of
`integral(f g Y_lm)` its derivative in direction of one factor, pulled back, is the same with the
cotangent in the place of that factor, projected on the factor's degrees: a sum of products again,
on the same grid. So there is one rule, which calls itself. Residuals are the inputs.
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
    parts_of,
    products_of_signals,
    tables_of,
)
from structlayers.equivariant.pallas_gpu.gradients import powers, pulled_back
from structlayers.equivariant.pallas_gpu.plan import Mode, Product, product_of

type _Arrays = tuple[jax.Array, ...]


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
    (z,) = _multiply((x, y), (product_of((0, 1), lmax),), precision)
    return z


def many_body_product(
    x: jax.Array, *, order: int, lmax: int, grid: Any, precision: Mode
) -> jax.Array:
    """All powers in one kernel, for what `support.check_many_body` lets pass.

    Args:
        x: `(..., (L + 1)^2)`, float32 or bfloat16.
        order: nu, at least 2.
        lmax: degree of the results.
        grid: not used, as in `gaunt_tensor_product`.
        precision: "tf32", "3xtf32" or "bf16".

    Returns:
        Powers 2 to nu, `(..., nu - 1, (lmax + 1)^2)` in the dtype of x.
    """
    del grid
    return jnp.stack(_multiply((x,), powers(order, lmax), precision), axis=-2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _multiply(arrays: _Arrays, products: tuple[Product, ...], mode: Mode) -> _Arrays:
    """Products of arrays `(*B, (L + 1)^2)`."""
    # tables are arguments: functions that are partitioned hold no arrays
    tables = tuple(map(jnp.asarray, tables_of(parts_of(arrays, products, mode))))
    batched = (False, *(True for _ in arrays))
    run = partition_over_batch(_on_shard, batched=batched, num_batch_axes=arrays[0].ndim - 1)
    return run(tables, *arrays, products=products, mode=mode)


def _forward(arrays: _Arrays, products: tuple[Product, ...], mode: Mode) -> tuple[_Arrays, _Arrays]:
    return _multiply(arrays, products, mode), arrays


def _backward(
    products: tuple[Product, ...], mode: Mode, arrays: _Arrays, cotangents: _Arrays
) -> tuple[_Arrays]:
    wanted = pulled_back([largest_degree(x.shape[-1]) for x in arrays], products)
    chosen = tuple(product for product in wanted if product is not None)
    found = iter(_multiply((*arrays, *cotangents), chosen, mode))
    return (
        tuple(
            jnp.zeros_like(x) if product is None else next(found)
            for x, product in zip(arrays, wanted, strict=True)
        ),
    )


_multiply.defvjp(_forward, _backward)


def _on_shard(
    tables: _Arrays, *arrays: jax.Array, products: tuple[Product, ...], mode: Mode
) -> _Arrays:
    lead = arrays[0].shape[:-1]
    rows = [a.reshape(math.prod(lead), a.shape[-1]) for a in arrays]
    found = _batchable(products, mode)(tables, *rows)
    return tuple(z.reshape(*lead, z.shape[-1]) for z in found)


@functools.lru_cache(maxsize=256)
def _batchable(products: tuple[Product, ...], mode: Mode) -> Any:
    """The kernel on rows with a rule for `jax.vmap`: more rows."""

    @custom_vmap
    def run(tables: _Arrays, *rows: jax.Array) -> list[jax.Array]:
        return products_of_signals(tables, rows, products, mode)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], tables: _Arrays, *rows: jax.Array) -> Any:
        pairs = zip(rows, mapped[1:], strict=True)
        spread = [x if on else jnp.broadcast_to(x, (size, *x.shape)) for x, on in pairs]
        found = run(tables, *(x.reshape(-1, x.shape[-1]) for x in spread))
        return [z.reshape(size, -1, z.shape[-1]) for z in found], [True for _ in found]

    return run

"""Fused kernels as functions that are differentiable to any order; imports no Pallas.

A result is a sum of products of signals, projected on degrees 0 to L. By the symmetry of
`integral(f g Y_lm)` its derivative in direction of one factor, pulled back, is the same with the
cotangent in the place of that factor, projected on the factor's degrees: a sum of products again,
on the same grid. So there is one rule, which calls itself. Residuals are the inputs.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch
from structlayers.equivariant.pointwise import Product, largest_degree, pulled_back

type _Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class FusedKernel(abc.ABC):
    """A kernel that multiplies signals; compared by value, for the caches of JAX."""

    @abc.abstractmethod
    def tables(
        self, arrays: Sequence[jax.Array], products: tuple[Product, ...]
    ) -> tuple[np.ndarray, ...]:
        """What `products` takes as tables for arrays `(..., (L + 1)^2)` of any number of rows."""

    @abc.abstractmethod
    def products(
        self,
        tables: Sequence[jax.Array],
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
    ) -> list[jax.Array]:
        """Sums of products of some of the arrays `(*B, (L + 1)^2)`, in their dtype."""

    @property
    def partitioned(self) -> bool:
        """Whether it may stand inside a partitioning rule."""
        return True


def multiply(
    arrays: Sequence[jax.Array], products: tuple[Product, ...], kernel: FusedKernel
) -> _Arrays:
    """Products of signals, each projected on its own degrees.

    Args:
        arrays: `(..., (L + 1)^2)` of one rank and one dtype; leading axes broadcast, in memory.
        products: what is multiplied, by indices of the arrays.
        kernel: what multiplies.

    Returns:
        For each product `(..., (degree + 1)^2)` in the dtype of the arrays.
    """
    lead = jnp.broadcast_shapes(*(a.shape[:-1] for a in arrays))
    spread = tuple(jnp.broadcast_to(a, (*lead, a.shape[-1])) for a in arrays)
    return _multiply(spread, products, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _multiply(arrays: _Arrays, products: tuple[Product, ...], kernel: FusedKernel) -> _Arrays:
    # tables are arguments: functions that are partitioned hold no arrays
    tables = tuple(map(jnp.asarray, kernel.tables(arrays, products)))
    if not kernel.partitioned:
        return _on_shard(tables, *arrays, products=products, kernel=kernel)
    batched = (False, *(True for _ in arrays))
    run = partition_over_batch(_on_shard, batched=batched, num_batch_axes=arrays[0].ndim - 1)
    return run(tables, *arrays, products=products, kernel=kernel)


def _forward(
    arrays: _Arrays, products: tuple[Product, ...], kernel: FusedKernel
) -> tuple[_Arrays, _Arrays]:
    return _multiply(arrays, products, kernel), arrays


def _backward(
    products: tuple[Product, ...], kernel: FusedKernel, arrays: _Arrays, cotangents: _Arrays
) -> tuple[_Arrays]:
    wanted = pulled_back([largest_degree(x.shape[-1]) for x in arrays], products)
    chosen = tuple(product for product in wanted if product is not None)
    found = iter(_multiply((*arrays, *cotangents), chosen, kernel))
    return (
        tuple(
            jnp.zeros_like(x) if product is None else next(found)
            for x, product in zip(arrays, wanted, strict=True)
        ),
    )


_multiply.defvjp(_forward, _backward)


def _on_shard(
    tables: _Arrays, *arrays: jax.Array, products: tuple[Product, ...], kernel: FusedKernel
) -> _Arrays:
    return tuple(_batchable(products, kernel)(tables, *arrays))


@functools.lru_cache(maxsize=256)
def _batchable(products: tuple[Product, ...], kernel: FusedKernel) -> Any:
    """The kernel with a rule for `jax.vmap`: one more leading axis."""

    @custom_vmap
    def run(tables: _Arrays, *arrays: jax.Array) -> list[jax.Array]:
        return kernel.products(tables, arrays, products)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], tables: _Arrays, *arrays: jax.Array) -> Any:
        pairs = zip(arrays, mapped[1:], strict=True)
        spread = [x if on else jnp.broadcast_to(x, (size, *x.shape)) for x, on in pairs]
        return run(tables, *spread), [True for _ in products]

    return run

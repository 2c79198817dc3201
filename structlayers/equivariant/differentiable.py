"""Fused kernels as functions that are differentiable to any order; imports no Pallas.

A result is a sum of products of signals, projected on degrees 0 to L. By the symmetry of
`integral(f g Y_lm)` its derivative in direction of one factor, pulled back, is the same with the
cotangent in the place of that factor, projected on the factor's degrees: a sum of products again,
on the same grid. So there is one rule, which calls itself. Residuals are the inputs.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from structlayers._core.partitioning import partition_over_batch, vary_alike
from structlayers.equivariant.pointwise import Product, largest_degree, pulled_back

type _Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class FusedKernel(abc.ABC):
    """A kernel that multiplies signals; compared by value, for the caches of JAX.

    Arrays are `(*B, (L + 1)^2)`, or `(*B, r, (L + 1)^2)` and such that lack r because they are the
    same for all of these rows; of the latter `repeats` has r, of the others 1.
    """

    @abc.abstractmethod
    def tables(
        self,
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> tuple[np.ndarray, ...]:
        """What `products` takes as tables for these arrays with any number of rows."""

    @abc.abstractmethod
    def products(
        self,
        tables: Sequence[jax.Array],
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> list[jax.Array]:
        """Sums of products of some of the arrays, in their dtype."""

    @property
    def partitioned(self) -> bool:
        """Whether it may stand inside a partitioning rule."""
        return True

    @property
    def shared_rows(self) -> int:
        """Of a multiple of how many rows one may be read once for all; 0 where it never is."""
        return 0


def multiply(
    arrays: Sequence[jax.Array], products: tuple[Product, ...], kernel: FusedKernel
) -> _Arrays:
    """Products of signals, each projected on its own degrees.

    Args:
        arrays: `(..., (L + 1)^2)` of one rank and one dtype; leading axes broadcast, in memory
            but for those that the kernel shares.
        products: what is multiplied, by indices of the arrays.
        kernel: what multiplies.

    Returns:
        For each product `(..., (degree + 1)^2)` in the dtype of the arrays.
    """
    lead = jnp.broadcast_shapes(*(x.shape[:-1] for x in arrays))
    alike = [_shared_axes(x.shape[:-1], lead, kernel.shared_rows) for x in arrays]
    axes = max(alike)
    kept, repeat = lead[: len(lead) - axes], math.prod(lead[len(lead) - axes :])
    spread, repeats = [], []
    for x, own in zip(arrays, alike, strict=True):
        shared = axes > 0 and own == axes
        x = jnp.broadcast_to(
            x, (*kept, *(1,) * axes, x.shape[-1]) if shared else (*lead, x.shape[-1])
        )
        shape = kept if shared else (*kept, repeat) if axes else lead
        spread.append(x.reshape(*shape, x.shape[-1]))
        repeats.append(repeat if shared else 1)
    found = _multiply(tuple(vary_alike(spread)), products, kernel, tuple(repeats))
    return tuple(z.reshape(*lead, z.shape[-1]) for z in found)


def _shared_axes(shape: tuple[int, ...], lead: tuple[int, ...], rows: int) -> int:
    """Trailing axes, not all, along which an array is the same; 0 if not a multiple of `rows`."""
    axes = 0
    while axes < len(lead) - 1 and shape[len(lead) - 1 - axes] == 1:
        axes += 1
    repeat = math.prod(lead[len(lead) - axes :])
    return axes if rows and repeat > 1 and repeat % rows == 0 else 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _multiply(
    arrays: _Arrays, products: tuple[Product, ...], kernel: FusedKernel, repeats: tuple[int, ...]
) -> _Arrays:
    # tables are arguments: functions that are partitioned hold no arrays
    tables = tuple(map(jnp.asarray, kernel.tables(arrays, products, repeats)))
    static = {"products": products, "kernel": kernel, "repeats": repeats}
    if not kernel.partitioned:
        return _on_shard(tables, *arrays, **static)
    batched = (False, *(True for _ in arrays))
    axes = min(x.ndim for x in arrays) - 1
    run = partition_over_batch(_on_shard, batched=batched, num_batch_axes=axes)
    return run(tables, *arrays, **static)


def _forward(
    arrays: _Arrays, products: tuple[Product, ...], kernel: FusedKernel, repeats: tuple[int, ...]
) -> tuple[_Arrays, _Arrays]:
    return _multiply(arrays, products, kernel, repeats), arrays


def _backward(
    products: tuple[Product, ...],
    kernel: FusedKernel,
    repeats: tuple[int, ...],
    arrays: _Arrays,
    cotangents: _Arrays,
) -> tuple[_Arrays]:
    wanted = pulled_back([largest_degree(x.shape[-1]) for x in arrays], products)
    chosen = tuple(product for product in wanted if product is not None)
    again = (*repeats, *(1 for _ in cotangents))
    found = iter(_multiply((*arrays, *cotangents), chosen, kernel, again))
    gradients = []
    for x, product, repeat in zip(arrays, wanted, repeats, strict=True):
        if product is None:
            gradients.append(jnp.zeros_like(x))
            continue
        gradient = next(found)
        if repeat > 1:
            gradient = jnp.sum(gradient, axis=-2, dtype=jnp.float32).astype(x.dtype)
        gradients.append(gradient)
    return (tuple(gradients),)


_multiply.defvjp(_forward, _backward)


def _on_shard(tables: _Arrays, *arrays: jax.Array, **static: Any) -> _Arrays:
    return tuple(_batchable(**static)(tables, *arrays))


@functools.lru_cache(maxsize=256)
def _batchable(products: tuple[Product, ...], kernel: FusedKernel, repeats: tuple[int, ...]) -> Any:
    """The kernel with a rule for `jax.vmap`: one more leading axis."""

    @custom_vmap
    def run(tables: _Arrays, *arrays: jax.Array) -> list[jax.Array]:
        return kernel.products(tables, arrays, products, repeats)

    @run.def_vmap
    def _(size: int, mapped: Sequence[Any], tables: _Arrays, *arrays: jax.Array) -> Any:
        pairs = zip(arrays, mapped[1:], strict=True)
        spread = [x if on else jnp.broadcast_to(x, (size, *x.shape)) for x, on in pairs]
        return run(tables, *spread), [True for _ in products]

    return run

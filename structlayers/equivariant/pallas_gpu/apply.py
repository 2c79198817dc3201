"""The products of the family on Hopper GPUs, differentiable to any order."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, override

import jax
import jax.numpy as jnp

from structlayers.equivariant.differentiable import FusedKernel, multiply
from structlayers.equivariant.pallas_gpu.calls import parts_of, products_of_signals, tables_of
from structlayers.equivariant.pallas_gpu.plan import LARGEST_TILE, Mode
from structlayers.equivariant.pointwise import Product, powers, product_of


def gaunt_tensor_product(
    x: jax.Array, y: jax.Array, *, lmax: int, grid: Any, precision: Mode
) -> jax.Array:
    """Evaluates, multiplies and projects in one kernel, for what `support.check` lets pass.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or bfloat16.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast, in memory unless
            one of the two is the same along trailing axes that hold a multiple of 32 rows.
        lmax: L3.
        grid: not used: the kernel has one of its own, exact to L1 + L2 + L3.
        precision: "tf32", "3xtf32" or "bf16".

    Returns:
        `(..., (L3 + 1)^2)` in the dtype of x.
    """
    del grid
    (z,) = multiply((x, y), (product_of((0, 1), lmax),), _Kernel(precision))
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
    return jnp.stack(multiply((x,), powers(order, lmax), _Kernel(precision)), axis=-2)


@dataclasses.dataclass(frozen=True)
class _Kernel(FusedKernel):
    """The kernel in one mode.

    Attributes:
        mode: how tensor cores multiply.
    """

    mode: Mode

    @property
    @override
    def shared_rows(self) -> int:
        return LARGEST_TILE

    @override
    def tables(
        self,
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> Any:
        return tables_of(parts_of(arrays, products, self.mode, repeats))

    @override
    def products(
        self,
        tables: Sequence[jax.Array],
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> list[jax.Array]:
        lead = max((x.shape[:-1] for x in arrays), key=len)
        rows = [x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in arrays]
        found = products_of_signals(tables, rows, products, self.mode, repeats)
        return [z.reshape(*lead, z.shape[-1]) for z in found]

"""The products of the family on TPUs, differentiable to any order in reverse mode."""

import dataclasses
from collections.abc import Sequence
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np

from structlayers._core.pallas import (
    tpu_interpreter,
    tpu_kernels_can_be_partitioned,
    tpu_vmem_bytes,
)
from structlayers.equivariant.differentiable import FusedKernel, multiply
from structlayers.equivariant.pallas_tpu import kernels
from structlayers.equivariant.pallas_tpu.arithmetic import PARTS
from structlayers.equivariant.pallas_tpu.memory import plan, split_rows
from structlayers.equivariant.pallas_tpu.tables import evaluating, projecting
from structlayers.equivariant.pointwise import (
    Product,
    grid_degree,
    largest_degree,
    powers,
    product_of,
)


def gaunt_tensor_product(
    x: jax.Array, y: jax.Array, *, lmax: int, grid: Any, precision: Any
) -> jax.Array:
    """Evaluates, multiplies and projects in one kernel, for what `support.check` lets pass.

    Args:
        x: `(..., (L1 + 1)^2)`, float32 or bfloat16.
        y: `(..., (L2 + 1)^2)` of the same rank and dtype; leading axes broadcast, in memory.
        lmax: L3.
        grid: not used: the kernel has one of its own, exact to L1 + L2 + L3.
        precision: one of `arithmetic.PARTS`.

    Returns:
        `(..., (L3 + 1)^2)` in the dtype of x.
    """
    del grid
    (z,) = multiply((x, y), (product_of((0, 1), lmax),), _kernel(precision))
    return z


def many_body_product(
    x: jax.Array, *, order: int, lmax: int, grid: Any, precision: Any
) -> jax.Array:
    """All powers in one kernel, for what `support.check_many_body` lets pass.

    Args:
        x: `(..., (L + 1)^2)`, float32 or bfloat16.
        order: nu, at least 2.
        lmax: degree of the results.
        grid: not used, as in `gaunt_tensor_product`.
        precision: one of `arithmetic.PARTS`.

    Returns:
        Powers 2 to nu, `(..., nu - 1, (lmax + 1)^2)` in the dtype of x.
    """
    del grid
    return jnp.stack(multiply((x,), powers(order, lmax), _kernel(precision)), axis=-2)


@dataclasses.dataclass(frozen=True)
class _Kernel(FusedKernel):
    """The kernel in one precision.

    Attributes:
        parts: bfloat16 values that a float32 is taken for.
        vmem: bytes of VMEM that there are.
        interpret: what `pl.pallas_call` takes by this name.
    """

    parts: int
    vmem: int
    interpret: Any

    @property
    @override
    def partitioned(self) -> bool:
        return tpu_kernels_can_be_partitioned()

    @override
    def tables(
        self,
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> tuple[np.ndarray, ...]:
        del repeats  # 1, as it shares no rows
        degrees = [largest_degree(x.shape[-1]) for x in arrays]
        total = grid_degree(degrees, products)
        kept = sorted({product.degree for product in products})
        return (
            *(evaluating(degree, total, self.parts) for degree in sorted(set(degrees))),
            *(table for degree in kept for table in projecting(degree, total, self.parts)),
        )

    @override
    def products(
        self,
        tables: Sequence[jax.Array],
        arrays: Sequence[jax.Array],
        products: tuple[Product, ...],
        repeats: tuple[int, ...],
    ) -> list[jax.Array]:
        del repeats
        lead = arrays[0].shape[:-1]
        rows, itemsize = split_rows(lead), arrays[0].dtype.itemsize
        degrees = tuple(largest_degree(x.shape[-1]) for x in arrays)
        layout = plan(rows, degrees, products, itemsize, self.parts, self.vmem)
        settings = kernels.Settings(
            degrees, products, self.parts, layout, self.vmem, self.interpret
        )
        first = [jnp.moveaxis(x.reshape(*rows, x.shape[-1]), -1, 0) for x in arrays]
        found = kernels.multiply(settings, tables, first)
        return [jnp.moveaxis(z, 0, -1).reshape(*lead, len(z)) for z in found]


def _kernel(precision: Any) -> _Kernel:
    return _Kernel(PARTS[precision], tpu_vmem_bytes(), tpu_interpreter())

"""What the kernel serves, from shapes, dtypes and precision alone; imports no Pallas."""

from typing import Any

import jax.numpy as jnp

from structlayers._core.pallas import tpu_kernels_run, tpu_vmem_bytes
from structlayers.equivariant.pallas_tpu.arithmetic import PARTS
from structlayers.equivariant.pallas_tpu.memory import plan, split_rows
from structlayers.equivariant.pointwise import (
    Product,
    largest_degree,
    powers,
    product_of,
    pulled_back,
)


def check(x: Any, y: Any, *, lmax: int, precision: Any, platform: str, **static: Any) -> None:
    """Whether the kernel serves `gaunt_tensor_product` and its gradient.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    parts = _check_arrays(x, y, precision=precision, platform=platform)
    _check_fit((x, y), (product_of((0, 1), lmax),), parts)


def check_many_body(
    x: Any, *, order: int, lmax: int, precision: Any, platform: str, **static: Any
) -> None:
    """Whether the kernel serves `many_body_product` and its gradient.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    del static
    parts = _check_arrays(x, precision=precision, platform=platform)
    _check_fit((x,), powers(order, lmax), parts)


def _check_arrays(*arrays: Any, precision: Any, platform: str) -> int:
    if not tpu_kernels_run(platform):
        raise NotImplementedError(f"it is for TPU, this is {platform}")
    dtype = arrays[0].dtype.name
    if dtype not in ("float32", "bfloat16"):
        raise NotImplementedError(f"it takes float32 and bfloat16, not {dtype}")
    if precision not in PARTS:
        raise NotImplementedError(
            f"TPUs multiply bfloat16: it serves precision 'highest', 'high', 'default' and 'bf16', "
            f"not {precision!r}"
        )
    if any(0 in x.shape for x in arrays):
        raise NotImplementedError(f"an array is empty, of {[x.shape for x in arrays]}")
    return PARTS[precision]


def _check_fit(arrays: tuple[Any, ...], products: tuple[Product, ...], parts: int) -> None:
    degrees = tuple(largest_degree(x.shape[-1]) for x in arrays)
    kept = tuple(product.degree for product in products)
    itemsize, vmem = arrays[0].dtype.itemsize, tpu_vmem_bytes()
    rows = split_rows(jnp.broadcast_shapes(*(x.shape[:-1] for x in arrays)))
    plan(rows, degrees, products, itemsize, parts, vmem)
    gradients = tuple(one for one in pulled_back(degrees, products) if one is not None)
    plan(rows, (*degrees, *kept), gradients, itemsize, parts, vmem)

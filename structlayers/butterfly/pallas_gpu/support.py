"""What the GPU kernels serve, from shapes and dtypes alone; imports no Pallas."""

from typing import Any

from structlayers._core.pallas import require_hopper
from structlayers.butterfly.factors import twiddle_sizes
from structlayers.butterfly.monarch.shapes import monarch_sizes
from structlayers.butterfly.pallas_gpu.plans import served_sizes

# radices of the two factors
_MONARCH = ((16, 32), (32, 16), (32, 32))


def check_butterfly(x: Any, twiddle: Any, *, platform: str) -> None:
    """Whether the kernels serve `butterfly_multiply`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    check_rows(x, twiddle_sizes(twiddle.shape).size, platform=platform)
    if twiddle.dtype.name not in ("float32", "complex64"):
        raise NotImplementedError(f"the twiddle must be float32 or complex64, not {twiddle.dtype}")


def check_rows(x: Any, size: int, *, platform: str) -> None:
    """Whether the kernels serve products of N = `size` with vectors like `x`.

    Raises:
        NotImplementedError: they do not; the message says why.
    """
    require_hopper(platform)
    served = served_sizes(x.dtype.name)
    if not served:
        raise NotImplementedError(f"it takes bfloat16, float32 and complex64, not {x.dtype.name}")
    if size not in served:
        raise NotImplementedError(f"for {x.dtype.name} it serves N in {served}, not N = {size}")
    if 0 in x.shape:
        raise NotImplementedError(f"x is empty, of shape {x.shape}")


def check_monarch(x: Any, blocks1: Any, blocks2: Any, *, platform: str) -> None:
    """Whether the kernel serves `monarch_multiply`: square blocks that are two of its factors.

    Raises:
        NotImplementedError: it does not; the message says why.
    """
    check_rows(x, 1024, platform=platform)
    if x.dtype.name != "bfloat16":
        raise NotImplementedError(f"it takes bfloat16, not {x.dtype.name}")
    sizes = monarch_sizes(blocks1, blocks2)
    square = sizes.q == sizes.p == sizes.l and sizes.r == sizes.s
    if not square or (sizes.p, sizes.r) not in _MONARCH:
        raise NotImplementedError(
            f"it takes blocks (k, p, p) and (p, k, k) with (p, k) in {_MONARCH}, "
            f"not shapes {blocks1.shape} and {blocks2.shape}"
        )
    if blocks1.dtype.kind == "c":
        raise NotImplementedError("it takes real blocks")

"""Rows of a step of the grid, from the size of VMEM; imports no Pallas."""

import dataclasses
import math
from collections.abc import Sequence

from structlayers.equivariant.pallas_tpu.arithmetic import PAIRS
from structlayers.equivariant.pallas_tpu.tables import padded, padded_points
from structlayers.equivariant.pointwise import Product, grid_degree

LANES = 128
# Rows of a register of float32.
_SUBLANES = 8
# Rows that are computed together: many, because results of the matrix unit are waited for, but only
# as many as keep so many numbers on the grid alive (kernels.md has what that is worth).
_CHUNKS = (2048, 1024, 512, 256, LANES)
_ALIVE = 300_000
# Most rows of a step: enough to hide what a step costs by itself.
_STEP = 4096
# Share of VMEM that a kernel plans for; the rest is the compiler's.
_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Layout:
    """How rows are cut.

    Attributes:
        chunk: rows that are computed together.
        chunks: of a step.
        steps: grid of the kernel: over rows, or over a leading axis and tiles of 128 channels.
    """

    chunk: int
    chunks: int
    steps: tuple[int, ...]

    @property
    def block(self) -> tuple[int, ...]:
        """Rows of a step, along the axes behind that of coefficients."""
        rows = self.chunk * self.chunks
        return (rows,) if len(self.steps) == 1 else (rows // LANES, LANES)


def split_rows(lead: Sequence[int]) -> tuple[int, ...]:
    """Leading axes as the kernel has them: `(B, C)` for whole registers of channels, else `(R,)`.

    Example:
        >>> split_rows((5, 7, 128)), split_rows((5, 7, 64))
        ((35, 128), (2240,))
    """
    *rest, channels = lead or (1,)
    if channels % LANES == 0 and math.prod(rest) >= _SUBLANES:
        return (math.prod(rest), channels)
    return (math.prod(lead),)


def table_bytes(degrees: Sequence[int], products: Sequence[Product], parts: int) -> int:
    """Of all tables, each of them in VMEM once."""
    points, pairs = padded_points(grid_degree(degrees, products)), len(PAIRS[parts])
    inputs = sum(2 * points * padded((degree + 1) ** 2) for degree in set(degrees))
    kept = {product.degree for product in products}
    # even and odd degrees, each filled up
    outputs = sum((padded((degree + 1) ** 2) + 16) * points for degree in kept)
    return 2 * pairs * (inputs + outputs)


def plan(
    rows: Sequence[int],
    degrees: Sequence[int],
    products: Sequence[Product],
    itemsize: int,
    parts: int,
    vmem: int,
) -> Layout:
    """The most rows of a step that fit.

    Args:
        rows: `(R,)` or `(B, C)`, from `split_rows`.
        degrees: of the inputs.
        products: of the inputs.
        itemsize: bytes of a number of inputs and results.
        parts: bfloat16 values that a float32 is taken for.
        vmem: bytes of VMEM.

    Raises:
        NotImplementedError: not even one chunk fits.
    """
    tables = table_bytes(degrees, products, parts)
    points = padded_points(grid_degree(degrees, products))
    kept = [product.degree for product in products]
    stored = sum(padded((degree + 1) ** 2) for degree in (*degrees, *kept))
    # two buffers each; of bfloat16 channels also in float32
    stored *= 2 * itemsize + (4 if len(rows) == 2 and itemsize == 2 else 0)
    # values of all inputs, of two products, and the operand of a projection
    live = 4 * 2 * points * (len(degrees) + 2) + 2 * len(PAIRS[parts]) * points
    limit = int(_SHARE * vmem)
    # a block of channels has whole registers of 8 rows of float32, 16 of bfloat16
    least = LANES if len(rows) == 1 else 32 // itemsize * LANES
    needed = limit + 1
    for chunk in _CHUNKS:
        alive = chunk * points * (len(degrees) + len(kept))
        if chunk > LANES and (alive > _ALIVE or chunk >= 2 * math.prod(rows)):
            continue
        for step in (_STEP, 2048, 1024, 512, 256, LANES):
            needed = tables + chunk * live + step * stored
            if step >= max(chunk, least) and needed <= limit:
                return _cut(rows, chunk, step // chunk)
    raise NotImplementedError(
        f"degrees {tuple(degrees)} to {tuple(kept)} take {needed / 2**20:.1f} MiB of VMEM, "
        f"{limit / 2**20:.1f} of {vmem >> 20} MiB are to be had"
    )


def _cut(rows: Sequence[int], chunk: int, chunks: int) -> Layout:
    if len(rows) == 2:
        return Layout(chunk, chunks, (-(-rows[0] * LANES // (chunk * chunks)), rows[1] // LANES))
    steps = -(-rows[0] // (chunk * chunks))
    return Layout(chunk, -(-rows[0] // (chunk * steps)), (steps,))

"""Rows of a step of the grid, from the size of VMEM; imports no Pallas."""

import dataclasses
from collections.abc import Sequence

from structlayers.equivariant.pallas_tpu.arithmetic import PAIRS
from structlayers.equivariant.pallas_tpu.tables import padded, padded_points
from structlayers.equivariant.pointwise import Product, grid_degree

LANES = 128
# Rows that are computed together: the width of the largest matrix unit.
_CHUNK = 256
# Chunks of a step: enough to hide what a step costs by itself.
_CHUNKS = (16, 8, 4, 2, 1)
# Share of VMEM that a kernel plans for; the rest is the compiler's.
_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Layout:
    """How rows are cut.

    Attributes:
        chunk: rows that are computed together.
        chunks: of a step.
        steps: of all rows.
    """

    chunk: int
    chunks: int
    steps: int

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.chunk * self.chunks


def table_bytes(degrees: Sequence[int], products: Sequence[Product], parts: int) -> int:
    """Of all tables, each of them in VMEM once."""
    points, pairs = padded_points(grid_degree(degrees, products)), len(PAIRS[parts])
    inputs = sum(2 * points * padded((degree + 1) ** 2) for degree in set(degrees))
    kept = {product.degree for product in products}
    # even and odd degrees, each filled up
    outputs = sum((padded((degree + 1) ** 2) + 16) * points for degree in kept)
    return 2 * pairs * (inputs + outputs)


def plan(
    rows: int,
    degrees: Sequence[int],
    products: Sequence[Product],
    itemsize: int,
    parts: int,
    vmem: int,
) -> Layout:
    """The most rows of a step that fit.

    Args:
        rows: number of rows R.
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
    # inputs and results in two buffers each
    stored = 2 * itemsize * sum(padded((degree + 1) ** 2) for degree in (*degrees, *kept))
    # values of all inputs, of two products, and the operand of a projection
    live = 4 * 2 * points * (len(degrees) + 2) + 2 * len(PAIRS[parts]) * points
    limit = int(_SHARE * vmem)
    chunk = _CHUNK if rows > LANES else LANES
    needed = limit + 1
    for chunks in _CHUNKS:
        needed = tables + chunk * (live + stored * chunks)
        if needed <= limit:
            steps = -(-rows // (chunk * chunks))
            return Layout(chunk, -(-rows // (chunk * steps)), steps)
    raise NotImplementedError(
        f"degrees {tuple(degrees)} to {tuple(kept)} take {needed / 2**20:.1f} MiB of VMEM, "
        f"{limit / 2**20:.1f} of {vmem >> 20} MiB are to be had"
    )

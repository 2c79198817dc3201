"""Rows of a tile from the size of VMEM, and which chains fit; imports no Pallas."""

import dataclasses
import math

from structlayers.butterfly.pallas_tpu.chain import Chain, Factor

# Rows of a tile, from the best on. The matrix unit takes rows one by one after its weights, so a
# tall tile hides loading them; below 16 a bfloat16 register is not filled.
FORWARD_ROWS = (256, 128, 64, 32, 16)
BACKWARD_ROWS = (128, 64, 32, 16)
LOWEST_TILE = 16
# Most members of a pass across registers: three factors of radix 2 between a load and a store. Two
# in the backward pass are estimated 10 % slower on v5e and a quarter slower on v6e.
MEMBERS = 8
# Share of VMEM that a kernel plans for; the rest is the compiler's.
SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Layout:
    """Rows of a tile and what they take.

    Attributes:
        rows: of a tile.
        bytes: of VMEM, all buffers.
    """

    rows: int
    bytes: int


def _padded(*shape: int, itemsize: int) -> int:
    """Bytes of an array in VMEM: its last two axes fill tiles of 8 x 128 words."""
    rows, lanes = shape[-2:]
    per_tile = 8 * (4 // itemsize)
    filled = -(-rows // per_tile) * per_tile * -(-lanes // 128) * 128
    return math.prod(shape[:-2]) * filled * itemsize


def _weight_bytes(factor: Factor, itemsize: int) -> int:
    if factor.mixes_lanes:
        return _padded(factor.copies, factor.radix, factor.radix, itemsize=itemsize)
    return _padded(factor.copies, factor.radix**2, factor.stride, itemsize=4)


def _gradient_bytes(factor: Factor) -> int:
    if factor.mixes_lanes:
        return _weight_bytes(factor, 4)
    return factor.copies * factor.radix**2 * 8 * factor.stride * 4


def plan(
    chain: Chain, planes: int, itemsize: int, batch: int, vmem: int, *, backward: bool
) -> Layout:
    """The tallest tile that fits.

    Args:
        chain: the factors.
        planes: 1 for real, 2 for complex values.
        itemsize: bytes of a stored value of one plane.
        batch: number of rows there are.
        vmem: bytes of VMEM.
        backward: for the kernel of the gradients.

    Raises:
        NotImplementedError: not even the lowest tile fits.
    """
    fixed = sum(_weight_bytes(factor, itemsize) for factor in chain.factors)
    if backward:
        fixed += sum(_gradient_bytes(factor) for factor in chain.factors)
        states = len(chain.passes(MEMBERS)) - 1
        wide, stored = states + (states > 0), 3
    else:
        wide, stored = int(len(chain.passes(MEMBERS)) > 1), 2
    fixed *= planes
    per_row = planes * chain.size * (4 * wide + 2 * stored * itemsize)
    limit = int(SHARE * vmem)
    choices = BACKWARD_ROWS if backward else FORWARD_ROWS
    for rows in [rows for rows in choices if rows <= batch] or [choices[-1]]:
        if fixed + rows * per_row <= limit:
            return Layout(rows, fixed + rows * per_row)
    needed = (fixed + choices[-1] * per_row) / 2**20
    raise NotImplementedError(
        f"N = {chain.size} takes {needed:.1f} MiB of VMEM {'backward' if backward else 'forward'}, "
        f"{limit / 2**20:.1f} of {vmem >> 20} MiB are to be had"
    )

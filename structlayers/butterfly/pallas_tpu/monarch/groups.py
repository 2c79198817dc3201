"""Blocks packed into groups for the matrix unit, and rows of a tile; imports no Pallas.

G groups of consecutive first blocks and G groups of second blocks, block `l` in group `l mod G`.
Values and outputs then belong to group `index mod G`: within 128 lanes every group has each G-th.
"""

import dataclasses
import math

from structlayers.butterfly.monarch.shapes import MonarchSizes
from structlayers.butterfly.pallas_tpu.chain import LANES, MAX_WIDTH
from structlayers.butterfly.pallas_tpu.memory import BACKWARD_ROWS, FORWARD_ROWS, SHARE

# An exchange holds one register of every group: more do not fit the register file.
_MOST_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Groups:
    """Sizes of a product by groups, each side of each group a multiple of 128.

    Attributes:
        count: G, a power of two.
        inputs: of one group of first blocks.
        middle: values of one group between the factors.
        outputs: of one group of second blocks.
    """

    count: int
    inputs: int
    middle: int
    outputs: int

    @property
    def work(self) -> int:
        """Multiplications per row."""
        return self.count * self.middle * (self.inputs + self.outputs)


def find_groups(sizes: MonarchSizes, width: int) -> Groups:
    """The groups of least work that fill a matrix unit of `width` columns.

    Raises:
        NotImplementedError: no grouping has sides that are multiples of 128, or it would be dense.

    Example:
        >>> find_groups(MonarchSizes(32, 32, 32, 32, 32, 32), 128)
        Groups(count=8, inputs=128, middle=128, outputs=128)
    """
    found = []
    for exponent in range(1, _MOST_GROUPS.bit_length()):
        count = 2**exponent
        if any(size % count for size in (sizes.k, sizes.q, sizes.l, sizes.r)):
            break
        groups = Groups(
            count,
            sizes.k * sizes.p // count,
            sizes.middle // count,
            sizes.l * sizes.s // count,
        )
        sides = (groups.inputs, groups.middle, groups.outputs)
        packed = count < max(sizes.k, sizes.l)
        if any(side % LANES for side in sides) or LANES % (sizes.l // count):
            continue  # a run of lanes holds as many outputs of every block
        if packed and min(sides) > MAX_WIDTH:
            continue
        found.append(groups)
    if not found:
        raise NotImplementedError(
            f"blocks of shapes {(sizes.k, sizes.q, sizes.p)} and {(sizes.l, sizes.s, sizes.r)} do "
            f"not pack into 2 to {_MOST_GROUPS} groups whose sides are multiples of {LANES}, and "
            f"not all above {MAX_WIDTH} where a group is more than one block"
        )

    def passes(groups: Groups) -> tuple[int, int]:
        sides = (groups.inputs, groups.middle, groups.outputs)
        inputs, middle, outputs = (-(-side // width) for side in sides)
        # of equal ones, that with fewer registers to exchange
        return groups.count * middle * (inputs + outputs), groups.count

    return min(found, key=passes)


def tile_rows(groups: Groups, itemsize: int, batch: int, vmem: int, *, backward: bool) -> int:
    """Rows of the tallest tile that fits.

    Args:
        groups: sizes.
        itemsize: bytes of a value.
        batch: number of rows there are.
        vmem: bytes of VMEM.
        backward: for the kernel of the gradients.

    Raises:
        NotImplementedError: not even the lowest tile fits.
    """
    # float32 sums of the gradients beside the weights
    fixed = groups.work * (itemsize + (4 if backward else 0))
    sides = (groups.inputs, groups.middle, groups.outputs)
    x, h, y = (groups.count * side * itemsize for side in sides)
    # two buffers of what is transferred, one of what stays
    per_row = 4 * x + h + 3 * y if backward else 2 * x + h + 3 * y
    limit = int(SHARE * vmem)
    choices = BACKWARD_ROWS if backward else FORWARD_ROWS
    for rows in [rows for rows in choices if rows <= batch] or [choices[-1]]:
        if fixed + rows * per_row <= limit:
            return rows
    needed = math.ceil((fixed + choices[-1] * per_row) / 2**20)
    raise NotImplementedError(
        f"{groups.count} groups of {sides} take {needed} MiB of VMEM "
        f"{'backward' if backward else 'forward'}, {limit / 2**20:.1f} of {vmem >> 20} MiB are to "
        "be had"
    )

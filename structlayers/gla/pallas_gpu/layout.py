"""Where things lie: the images of chunks in device memory, and tiles in shared memory.

A tile is 16 or 64 rows of bfloat16. It stands in panels of 64 columns, 128 bytes a row; the eight
units of 16 bytes of a row are permuted by ``unit ^ (row % 8)``, so that neither eight rows of one
unit nor one row of eight meet in a bank. Images hold tiles as shared memory will have them: one
copy of consecutive bytes brings in a chunk.
"""

import dataclasses

from structlayers._core.simt.machine import Int, IntLike
from structlayers.gla.pallas_gpu.support import LARGEST_GRADIENT_KEY

CHUNK, ROWS = 64, 16
# Rows of the values that a block of threads of the recurrence holds: 16 for each of 4 warps.
VALUE_TILE = 64
SCORE_BYTES = CHUNK * CHUNK * 2
# Rows of 64 values in shared memory stand so far apart that no two of eight meet in a bank.
ROW_PITCH = VALUE_TILE * 2 + 16
# Of an H100 or H200.
MULTIPROCESSORS, SHARED_LIMIT = 132, 227 << 10


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a call.

    Attributes:
        batch: B.
        time: T.
        heads: H, query heads, or their parts.
        groups: G, key heads, or their parts.
        key: K, a multiple of 64, of a part.
        value: V, a multiple of 64.
        scale: of the outputs.
        parts: of a head.
    """

    batch: int
    time: int
    heads: int
    groups: int
    key: int
    value: int
    scale: float
    parts: int = 1

    @property
    def chunks(self) -> int:
        """Of a sequence."""
        return -(-self.time // CHUNK)

    @property
    def paired(self) -> bool:
        """Whether states are kept of every second chunk, and made again for the others.

        At K = 64 and V = 64 what that reads of an image are as many bytes as a state has.
        """
        return self.key > 64

    @property
    def kept(self) -> int:
        """Chunks of a sequence whose states are kept."""
        return self.kept_of(self.chunks)

    def kept_of(self, chunks: int) -> int:
        """Of so many from an even one on, or to the last, those whose states are kept."""
        return -(-chunks // 2) if self.paired else chunks

    @property
    def sequences(self) -> int:
        """Of query heads, in the whole batch."""
        return self.batch * self.heads

    @property
    def ragged(self) -> bool:
        """Whether the last chunk is not full."""
        return self.time % CHUNK != 0

    @property
    def shared(self) -> int:
        """Query heads of a key head."""
        return self.heads // self.groups

    @property
    def tile_bytes(self) -> int:
        """Of 64 rows of K."""
        return CHUNK * self.key * 2

    def in_parts(self) -> "Sizes":
        """These for the kernel of gradients, which takes keys too large for it in parts.

        Parts follow each other in the array, each a head of its own with the same values: every
        channel of keys has its row of the state, so states of parts stand one over the other, and
        no result of the kernel is a sum over them.
        """
        parts = -(-self.key // LARGEST_GRADIENT_KEY)
        heads, groups, key = self.heads * parts, self.groups * parts, self.key // parts
        return dataclasses.replace(self, heads=heads, groups=groups, key=key, parts=parts)

    def whole(self) -> "Sizes":
        """The reverse of `in_parts`."""
        heads, groups, key = self.heads // self.parts, self.groups // self.parts, self.key
        return dataclasses.replace(self, heads=heads, groups=groups, key=key * self.parts, parts=1)

    def group_of(self, head: Int) -> Int:
        """The key head of a query head, or of a part the part of the same number."""
        if self.shared == 1:
            return head
        return head.divide(self.parts * self.shared) * self.parts + head.modulo(self.parts)

    # an image: queries, keys, scores, decay of the chunk

    @property
    def scores_at(self) -> int:
        """Where the scores start in an image."""
        return 2 * self.tile_bytes

    @property
    def decay_at(self) -> int:
        """Where the decay of the chunk starts in an image, K float32."""
        return self.scores_at + SCORE_BYTES

    @property
    def image_bytes(self) -> int:
        """Of a chunk of a query head."""
        return self.decay_at + 4 * self.key


def permuted(unit: IntLike, row: Int) -> Int:
    """Byte in its row of a panel where a unit (0 to 7) stands."""
    return ((row & 7) ^ unit) << 4


def lane_row(lane: Int, *, rows_first: bool) -> tuple[Int, Int]:
    """Which row and unit of a 16 x 16 tile a lane addresses for `load_matrices`.

    Args:
        lane: of the warp.
        rows_first: whether the second of the four matrices is the lower one (a left operand, or a
            right one that is transposed), or that of the next columns.
    """
    inner, second, fourth = lane & 7, (lane >> 3) & 1, lane >> 4
    if rows_first:
        return inner + second * 8, fourth
    return inner + fourth * 8, second

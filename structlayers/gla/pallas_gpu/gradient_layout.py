"""Where things lie in shared memory while the gradients of a chunk are made."""

import dataclasses

from structlayers.gla.pallas_gpu.chunk import TILES
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, SCORE_BYTES, VALUE_TILE, Sizes

# Tiles of 64 values of states on their way.
STAGES = 2
# A panel of 64 values of all rows.
PANEL_BYTES = CHUNK * 128
# Rows of K float32. Sums over rows: of queries and keys that reach over other parts, for each part;
# of what the far tiles span. Then the decays of the chunk before each of the four times 16 rows,
# and after.
QUERY_SUMS, KEY_SUMS, OVER_SECOND, OVER_THIRD, BEFORE, AFTER, SUMS = 0, 4, 8, 9, 10, 14, 18
_PANEL_ALIGNMENT = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where things lie in shared memory.

    Attributes:
        sizes: of the call.
        chunks: of a sequence those whose gradients are made, pairs as a whole.
        pulled: places for gradients of states of a sequence; these chunks' are the first.
    """

    sizes: Sizes
    chunks: range
    pulled: int

    @property
    def row_stages(self) -> int:
        """Tiles of 64 values and cotangents on their way.

        With two, a multiprocessor has two blocks of K = 64.
        """
        return 3 if self.sizes.paired else 2

    @property
    def threads(self) -> int:
        """Of a block."""
        return 2 * self.sizes.key

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        return self.sizes.sequences * len(self.chunks)

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def buffer_bytes(self) -> int:
        """64 x K float32."""
        return CHUNK * self.sizes.key * 4

    @property
    def scores_at(self) -> int:
        """Gradients of scores, after decays and tiles."""
        return 16 * self.sizes.key + TILES * ROWS * self.sizes.key * 2

    @property
    def sums_at(self) -> int:
        """Sums over rows."""
        return self.scores_at + SCORE_BYTES

    @property
    def state_sums_at(self) -> int:
        """Products of both states over even and odd values, K float32 each."""
        return self.stages_at + 3 * self.buffer_bytes

    @property
    def halved_at(self) -> int:
        """Gradients of scores of rows that are halved: the four blocks on the diagonal in a row."""
        return self.sums_at + SUMS * 4 * self.sizes.key

    @property
    def stages_at(self) -> int:
        """Stages of both states, and later the buffers."""
        return -(-(self.halved_at + ROWS * 128) // _PANEL_ALIGNMENT) * _PANEL_ALIGNMENT

    @property
    def rows_at(self) -> int:
        """Stages of values and cotangents."""
        return self.stages_at + STAGES * 2 * self.state_bytes

    @property
    def neighbours_at(self) -> tuple[int, ...]:
        """Stages of values or cotangents of the other chunk of the pair, one where scores will be.

        Next to each other but for the last one.
        """
        if not self.sizes.paired:
            return ()
        first = self.rows_at + self.row_stages * 2 * PANEL_BYTES
        return first, first + PANEL_BYTES, self.scores_at

    @property
    def image_at(self) -> int:
        """Weighted keys or queries of that chunk."""
        if not self.sizes.paired:
            return self.rows_at + self.row_stages * 2 * PANEL_BYTES
        return self.neighbours_at[1] + PANEL_BYTES

    @property
    def decay_at(self) -> int:
        """Decay of that chunk."""
        return self.image_at + self.sizes.tile_bytes * self.sizes.paired

    @property
    def barriers_at(self) -> int:
        """One for each stage of states, and one for the image."""
        end = self.decay_at + 4 * self.sizes.key * self.sizes.paired
        return max(end, self.stages_at + 4 * self.buffer_bytes)

    @property
    def image_barrier(self) -> int:
        """The last of these."""
        return self.barriers_at + 8 * STAGES

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.image_barrier + 8


def make_plan(sizes: Sizes, chunks: range | None = None, pulled: int | None = None) -> Plan:
    """The plan; None for all chunks, and for as many places as they need."""
    return Plan(sizes, chunks or range(sizes.chunks), pulled or sizes.kept)

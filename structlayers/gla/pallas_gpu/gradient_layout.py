"""Where things lie in shared memory while the gradients of a chunk are made."""

import dataclasses

from structlayers.gla.pallas_gpu.chunk import TILES
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, SCORE_BYTES, VALUE_TILE, Sizes

# Channels and threads of a block, so few that a multiprocessor has two blocks.
CHANNELS, THREADS = 64, 128
# A tile of 64 x 64 in bfloat16: 64 values or cotangents of all rows, or as many of a state. Four
# come in at a time, so far ahead.
PANEL_BYTES = CHUNK * VALUE_TILE * 2
STAGE_BYTES, STAGES = 4 * PANEL_BYTES, 2
# 64 rows of float32.
BUFFER_BYTES = CHUNK * CHANNELS * 4
# Sums over rows, a float32 for each channel: of queries and keys that reach over other parts, for
# each part; of what the far tiles span; of the products of both states, for each of 16 groups of
# values.
QUERY_SUMS, KEY_SUMS, OVER_SECOND, OVER_THIRD, STATE_SUMS, SUMS = 0, 4, 8, 9, 10, 26

# In shared memory: tiles; gradients of scores; stages, and later four buffers; sums; gradients of
# the far tiles, where the decays have been; gradients of scores of rows that are halved, the four
# blocks on the diagonal in a row; a barrier for each stage.
SCORES_AT = TILES * ROWS * CHANNELS * 2
STAGES_AT = SCORES_AT + SCORE_BYTES
SUMS_AT = STAGES_AT + max(STAGES * STAGE_BYTES, 4 * BUFFER_BYTES)
FAR_AT = SUMS_AT + SUMS * 4 * CHANNELS
HALVED_AT = FAR_AT + BUFFER_BYTES // 4
BARRIERS_AT = HALVED_AT + ROWS * 128
SHARED_BYTES = BARRIERS_AT + 8 * STAGES


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        sizes: of the call, whose heads are parts of 64 channels.
        panels: of 64 channels, side by side in a state in device memory.
    """

    sizes: Sizes
    panels: int

    @property
    def steps(self) -> int:
        """In which values come in."""
        return self.sizes.value // VALUE_TILE


def make_plan(sizes: Sizes) -> Plan:
    """The plan for the sizes of the recurrences."""
    panels = sizes.key // CHANNELS
    return Plan(sizes.cut(panels), panels)

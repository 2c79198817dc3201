"""Where things lie in shared memory while the gradients of a chunk are made."""

import dataclasses

from structlayers.gla.pallas_gpu.chunk import TILES
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    ROW_PITCH,
    ROWS,
    SCORE_BYTES,
    SHARED_LIMIT,
    VALUE_TILE,
    Sizes,
)

# Of 64 values or cotangents of all rows.
ROWS_BYTES = CHUNK * ROW_PITCH
# Sums over rows, K float32 each: of queries and keys that reach over other parts, for each part; of
# what the far tiles span; and of the products of both states, for each of 16 groups of values.
QUERY_SUMS, KEY_SUMS, OVER_SECOND, OVER_THIRD, STATE_SUMS, SUMS = 0, 4, 8, 9, 10, 26


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where things lie in shared memory.

    Attributes:
        sizes: of the call.
        stages: tiles of values on their way.
    """

    sizes: Sizes
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return 2 * self.sizes.key

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def stage_bytes(self) -> int:
        """Values and cotangents of 64 columns, and both states."""
        return 2 * ROWS_BYTES + 2 * self.state_bytes

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
    def far_at(self) -> int:
        """Gradients of the far tiles."""
        return self.sums_at + SUMS * 4 * self.sizes.key

    @property
    def halved_at(self) -> int:
        """Gradients of scores of rows that are halved: the four blocks on the diagonal in a row."""
        return self.far_at + self.buffer_bytes // 4

    @property
    def stages_at(self) -> int:
        """Stages, and later the buffers."""
        return self.halved_at + ROWS * 128

    @property
    def barriers_at(self) -> int:
        """One for each stage."""
        return self.stages_at + max(self.stages * self.stage_bytes, 4 * self.buffer_bytes)

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.barriers_at + 8 * self.stages


def make_plan(sizes: Sizes) -> Plan:
    """The plan with two stages, or one."""
    for stages in (2, 1):
        plan = Plan(sizes, stages)
        if plan.shared_bytes <= SHARED_LIMIT:
            return plan
    raise NotImplementedError(f"a chunk of K = {sizes.key} does not fit in shared memory")

"""Where things lie in shared memory while the gradients of a chunk are made."""

import dataclasses
from typing import Any

from structlayers.gla.pallas_gpu.chunk import TILES
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    MULTIPROCESSORS,
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
# Merged, also the decays of the chunk before each of the four times 16 rows, and after.
BEFORE, AFTER, MERGED_SUMS = 26, 30, 34
_PANEL_ALIGNMENT = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where things lie in shared memory.

    Attributes:
        sizes: of the call.
        stages: tiles of values on their way.
        warpgroups: whether products with states are those of warpgroups.
        row_stages: then tiles of values and cotangents on their way, `stages` of states.
        later: tiles of states that are brought into the L2 for a later block.
        later_rows: whether all its values and cotangents are, too.
        merged: whether all gradients of a row are added up in the registers of tensor cores.
        stays: whether blocks stay for further chunks.
    """

    sizes: Sizes
    stages: int
    warpgroups: bool = False
    row_stages: int = 0
    later: int = 1
    later_rows: bool = False
    merged: bool = False
    stays: bool = False

    @property
    def threads(self) -> int:
        """Of a block."""
        return 2 * self.sizes.key

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        count = self.sizes.sequences * self.sizes.chunks
        return min(MULTIPROCESSORS, count) if self.stays else count

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def stage_bytes(self) -> int:
        """Values and cotangents of 64 columns, and both states."""
        return 2 * ROWS_BYTES * (not self.warpgroups) + 2 * self.state_bytes

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
        return self.sums_at + (MERGED_SUMS if self.merged else SUMS) * 4 * self.sizes.key

    @property
    def halved_at(self) -> int:
        """Gradients of scores of rows that are halved: the four blocks on the diagonal in a row."""
        return self.far_at + self.buffer_bytes // 4 * (not self.merged)

    @property
    def stages_at(self) -> int:
        """Stages, and later the buffers."""
        return -(-(self.halved_at + ROWS * 128) // _PANEL_ALIGNMENT) * _PANEL_ALIGNMENT

    @property
    def rows_at(self) -> int:
        """Stages of values and cotangents, if they are apart."""
        return self.stages_at + self.stages * self.stage_bytes

    @property
    def barriers_at(self) -> int:
        """One for each stage."""
        stages = self.stages * self.stage_bytes + self.row_stages * 2 * CHUNK * 128
        return self.stages_at + max(stages, 4 * self.buffer_bytes)

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.barriers_at + 8 * self.stages


# What a launch takes of the above.
_EARLY = {"warpgroups": True, "row_stages": 4}
_WHOLE = {"later": -1, "later_rows": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "now": {},
    "warpgroups": {"warpgroups": True, "row_stages": 2},
    "warpgroups, later whole": _EARLY | _WHOLE,
    "merged": _EARLY | {"merged": True},
    "merged, later states": _EARLY | {"merged": True, "later": -1},
    "merged, later whole": _EARLY | _WHOLE | {"merged": True},
    "staying": _EARLY | _WHOLE | {"merged": True, "stays": True},
}
VARIANT = "now"


def make_plan(sizes: Sizes, variant: str | None = None) -> Plan:
    """The plan with two stages, or one."""
    chosen = dict(VARIANTS[variant or VARIANT])
    tiles = sizes.value // VALUE_TILE
    later = chosen.pop("later", 1)
    chosen["later"] = tiles if later < 0 else min(later, tiles)
    for stages in (2, 1):
        plan = Plan(sizes, stages, **chosen)
        if plan.shared_bytes <= SHARED_LIMIT:
            return plan
    raise NotImplementedError(f"a chunk of K = {sizes.key} does not fit in shared memory")

"""What one launch of the recurrence does, and where things lie in its shared memory."""

import dataclasses

from structlayers.gla.pallas_gpu.layout import CHUNK, ROW_PITCH, SHARED_LIMIT, VALUE_TILE, Sizes

# Threads of a role.
TEAM = 128
# Warps of a role, each of which arrives by one thread.
TEAM_WARPS = TEAM // 32
OUT_BYTES = CHUNK * ROW_PITCH


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        sizes: of the call.
        stages: chunks on their way.
        state_buffers: places of states that outputs are read from.
        transposed: whether it runs from the end, see `recurrent`.
        keeps: whether it writes the states before chunks: before every one, or, of pairs, the first
            in the order of its steps; and always that before its first step.
        reads: whether it writes outputs; else the final state is all.
        chunks: of a sequence those that it goes through, pairs as a whole.
        kept: places for states of a sequence; these chunks' are the first.
        goes_on: whether it starts from the final state of another launch, in its place.
    """

    sizes: Sizes
    chunks: range
    kept: int
    stages: int
    state_buffers: int = 2
    transposed: bool = False
    keeps: bool = False
    reads: bool = True
    goes_on: bool = False

    @property
    def threads(self) -> int:
        """Of a block."""
        return TEAM * (1 + self.reads)

    @property
    def stage_bytes(self) -> int:
        """An image and its rows of values, in whole panels' alignment."""
        return -(-(self.sizes.image_bytes + CHUNK * ROW_PITCH) // 1024) * 1024

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def outputs_at(self) -> int:
        """Where outputs wait for their stores, two tiles of them."""
        return self.stages * self.stage_bytes

    @property
    def states_at(self) -> int:
        """Where states wait for those who read them."""
        return self.outputs_at + 2 * OUT_BYTES * self.reads

    @property
    def arrived_at(self) -> int:
        """Barriers of stages: their chunk is there."""
        return self.states_at + self.state_buffers * self.state_bytes * self.reads

    @property
    def used_at(self) -> int:
        """Barriers of stages: their chunk has been added to the state."""
        return self.arrived_at + 8 * self.stages

    @property
    def staged_at(self) -> int:
        """Barriers of places of states: one is there."""
        return self.used_at + 8 * self.stages

    @property
    def read_at(self) -> int:
        """Barriers of places of states: it has been read."""
        return self.staged_at + 8 * self.state_buffers

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.read_at + 8 * self.state_buffers

    @property
    def tiles(self) -> int:
        """Blocks of threads for one head."""
        return self.sizes.value // VALUE_TILE

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        return self.sizes.sequences * self.tiles


def make_plan(
    sizes: Sizes, chunks: range | None = None, kept: int | None = None, **options: bool
) -> Plan:
    """The plan with three stages, or two; with two places of states, or one.

    Args:
        sizes: of the call.
        chunks: as in the plan, or None for all.
        kept: as in the plan, or None for as many as all chunks need.
        options: the other fields of the plan.
    """
    chunks, kept = chunks or range(sizes.chunks), kept or sizes.kept
    for stages, buffers in ((3, 2), (2, 2), (2, 1)):
        plan = Plan(sizes, chunks, kept, stages, buffers, **options)
        if plan.shared_bytes <= SHARED_LIMIT:
            return plan
    raise NotImplementedError(f"a chunk of K = {sizes.key} does not fit in shared memory")

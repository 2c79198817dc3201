"""What both roles of a block of the recurrence share: where it stands, and its chunks' copies."""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.layout import CHUNK, ROW_PITCH, VALUE_TILE
from structlayers.gla.pallas_gpu.recurrent_plan import TEAM, TEAM_WARPS, Plan


class Block:
    """A block with one tile of values of one sequence.

    `thread` and `warp` count from the start of the role.
    """

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        self.plan, self.sizes, self.machine = plan, plan.sizes, machine
        self.image, self.values, *rest = inputs
        self.initial = rest[0] if rest else None
        m, sizes = machine, plan.sizes
        block = m.cluster()
        self.tile, self.sequence = block.modulo(plan.tiles), block.divide(plan.tiles)
        self.head = self.sequence.modulo(sizes.heads)
        self.batch = self.sequence.divide(sizes.heads)
        self.thread, self.lane = m.thread() & (TEAM - 1), m.lane()
        self.warp = m.warp() & (TEAM_WARPS - 1)
        # values and states are those of key heads, cotangents and theirs those of query heads
        self.state_heads, self.state_head = sizes.groups, sizes.group_of(self.head)
        if plan.transposed:
            self.state_heads, self.state_head = sizes.heads, self.head
        # weighted queries and keys, as the products take them
        self.reading, self.writing = 0, sizes.tile_bytes
        if plan.transposed:
            self.reading, self.writing = self.writing, self.reading

    def start_barriers(self) -> None:
        """For all threads of the block."""
        plan, m = self.plan, self.machine
        with m.when(m.thread().equals(0)):
            for stage in range(plan.stages):
                # who expects the image, and all threads' rows
                m.barrier_init(plan.arrived_at + 8 * stage, 1 + TEAM)
                m.barrier_init(plan.used_at + 8 * stage, TEAM_WARPS)
            for buffer in range(plan.state_buffers):
                m.barrier_init(plan.staged_at + 8 * buffer, TEAM_WARPS)
                m.barrier_init(plan.read_at + 8 * buffer, TEAM_WARPS)
        m.synchronize()

    def arrive(self, barrier: Int) -> None:
        """What this role has done so far is done, for who waits for the barrier."""
        m = self.machine
        m.reconverge()
        with m.when(self.lane.equals(0)):
            m.barrier_arrive(barrier)
        m.reconverge()

    def place(self, step: Int) -> Int:
        """The chunk of a step."""
        first, last = self.plan.chunks[0], self.plan.chunks[-1]
        if self.plan.transposed:
            return step * -1 + last
        return step + first if first else step

    def kept_place(self, step: Int) -> Int:
        """Where among the states that are kept that of a step has its place."""
        place, first = self.place(step), self.plan.chunks[0]
        return (place - first if first else place) >> int(self.sizes.paired)

    def row(self, step: Int, row: Int, heads: int, head: Int) -> Int:
        """Row of an array `(B, T, heads, ...)`; that of the last token past the end."""
        place = self.place(step) * CHUNK + row
        if self.sizes.ragged:
            place = place.minimum(self.sizes.time - 1)
        return (self.batch * self.sizes.time + place) * heads + head

    def stage_of(self, step: Int) -> tuple[Int, Int, Int]:
        """Number of a step's stage, where it starts, and the parity of its phases."""
        stage = step.modulo(self.plan.stages)
        return stage, stage * self.plan.stage_bytes, step.divide(self.plan.stages) & 1

    def buffer_of(self, step: Int) -> tuple[Int, Int, Int]:
        """Number of the place of the state before a step, where it is, and its phases' parity."""
        buffer = step.modulo(self.plan.state_buffers)
        start = buffer * self.plan.state_bytes + self.plan.states_at
        return buffer, start, step.divide(self.plan.state_buffers) & 1

    def fetch(self, step: Int) -> None:
        """Starts the copies of a step's chunk, by one role; for a step that there is."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage, start, _ = self.stage_of(step)
        barrier = stage * 8 + plan.arrived_at
        with m.when(self.thread.equals(0)):
            m.barrier_expect(barrier, sizes.image_bytes)
            image = self.sequence * sizes.chunks + self.place(step)
            size, zero = sizes.image_bytes, m.constant(0)
            m.copy_in(start, self.image, image, size, zero, size, barrier)
        for row, unit in self.pieces():
            target = start + sizes.image_bytes + row * ROW_PITCH + unit * 16
            source = self.row(step, row, self.state_heads, self.state_head)
            offset = self.tile * (VALUE_TILE * 2) + unit * 16
            m.load_ahead(target, self.values, source, 2 * sizes.value, offset)
        m.loads_arrive(barrier)

    def fetch_first(self) -> None:
        """Starts the copies of as many chunks as there are stages, or chunks."""
        for step in range(min(self.plan.stages, len(self.plan.chunks))):
            self.fetch(self.machine.constant(step))

    def pieces(self) -> list[tuple[Int, Int]]:
        """Rows and units of a tile of values that this thread copies."""
        units = VALUE_TILE // 8
        unit, row = self.thread & (units - 1), self.thread >> (units.bit_length() - 1)
        return [(row + i, unit) for i in range(0, CHUNK, TEAM // units)]

    def matrices(self) -> Int:
        """Where in a tile of values a lane finds, or leaves, its rows of a transposed part."""
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        return row * ROW_PITCH + unit * 16 + self.warp * 32

    def load_values(self, step: Int) -> list[list[Any]]:
        """Left operands: 16 values of this warp by 16 tokens, for the four parts of the chunk."""
        m = self.machine
        at = self.stage_of(step)[1] + self.sizes.image_bytes + self.matrices()
        return [
            m.load_matrices(at + part * 16 * ROW_PITCH, transpose=True)
            for part in range(CHUNK // 16)
        ]

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """16 x 16 results in bfloat16: a left operand."""
        return [self.machine.pack(*values[i : i + 2]) for i in range(0, 8, 2)]

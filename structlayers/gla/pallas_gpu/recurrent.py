"""The recurrence over the chunks of a sequence: outputs, states and the final state.

A block of threads holds 64 values of one head's state, transposed, in registers: 16 values of all
keys a warp, as the result of a tensor-core product, which is at once the left operand of the next.
Images of chunks and rows of values come in by asynchronous copies, some chunks ahead.

    out^T   = S^T Q^T + V^T P^T            S before the chunk
    S'^T    = S^T * decay + V^T K          Q and K weighted, see `prepare`

Run from the end, with cotangents of outputs as values, queries and keys in each other's places and
the scores transposed, the same gives gradients of values and of states.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    ROW_PITCH,
    SHARED_LIMIT,
    VALUE_TILE,
    Sizes,
    lane_row,
    permuted,
)

THREADS = 128
_TILE_BYTES = CHUNK * ROW_PITCH


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        sizes: of the call.
        stages: images in shared memory.
        transposed: whether it runs from the end, as above.
        keeps: whether it writes the state before every chunk.
        reads: whether it writes outputs; else the final state is all.
        slots: tiles of values in shared memory, at least 3; outputs take their places, until the
            next step.
    """

    sizes: Sizes
    stages: int
    transposed: bool = False
    keeps: bool = False
    reads: bool = True
    slots: int = 4

    @property
    def stage_bytes(self) -> int:
        """An image, in whole panels' alignment."""
        return -(-self.sizes.image_bytes // 1024) * 1024

    @property
    def barriers_at(self) -> int:
        """Where barriers start, after stages, tiles of values and one of states."""
        return self.states_at + self.state_bytes * self.keeps

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def values_at(self) -> int:
        """Where tiles of values start."""
        return self.stages * self.stage_bytes

    @property
    def states_at(self) -> int:
        """Where a state waits for its copy."""
        return self.values_at + self.slots * _TILE_BYTES

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.barriers_at + 8 * self.stages

    @property
    def tiles(self) -> int:
        """Blocks of threads for one head."""
        return self.sizes.value // VALUE_TILE

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        return self.sizes.sequences * self.tiles


def make_plan(
    sizes: Sizes, *, transposed: bool = False, keeps: bool = False, reads: bool = True
) -> Plan:
    """The plan with three stages, or two."""
    for stages in (3, 2):
        plan = Plan(sizes, stages, transposed, keeps, reads)
        if plan.shared_bytes <= SHARED_LIMIT:
            return plan
    raise NotImplementedError(f"a chunk of K = {sizes.key} does not fit in shared memory")


class Program:
    """The block's program for one tile of values of one sequence."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]):
        self.plan, self.sizes, self.machine = plan, plan.sizes, machine
        self.image, self.values, *rest = inputs
        self.initial = rest[0] if rest else None
        self.final, *rest = outputs
        self.out = rest[0] if plan.reads else None
        self.states = rest[1] if plan.keeps else None
        m, sizes = machine, plan.sizes
        self.sequence, self.tile = self.place_of_block()
        self.head = self.sequence.modulo(sizes.heads)
        self.batch = self.sequence.divide(sizes.heads)
        self.group = self.head.divide(sizes.shared) if sizes.shared > 1 else self.head
        self.thread, self.lane, self.warp = m.thread(), m.lane(), m.warp()
        # values and states are those of key heads, cotangents and theirs those of query heads
        self.value_heads, self.value_head = sizes.groups, self.group
        if plan.transposed:
            self.value_heads, self.value_head = sizes.heads, self.head
        # weighted queries and keys, as the products take them
        self.reading, self.writing = 0, sizes.tile_bytes
        if plan.transposed:
            self.reading, self.writing = self.writing, self.reading

    def place_of_block(self) -> tuple[Int, Int]:
        """The sequence and tile of values of this block."""
        block = self.machine.cluster()
        return block.divide(self.plan.tiles), block.modulo(self.plan.tiles)

    def run(self) -> None:
        """All chunks."""
        plan, m = self.plan, self.machine
        with m.when(self.thread.equals(0)):
            for stage in range(plan.stages):
                m.barrier_init(plan.barriers_at + 8 * stage)
        m.synchronize()
        self.run_chunks()

    def run_chunks(self) -> None:
        """All chunks, when there are barriers."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        for stage in range(plan.stages):
            self.fetch(m.constant(stage))
        for slot in range(plan.slots - 1):
            self.fetch_values(m.constant(slot))
        m.wait_loads(plan.slots - 2)
        m.synchronize()
        state = self.load_state()
        state = m.loop(0, sizes.chunks, 1, self.step, state)
        if plan.reads:
            self.write_out(m.constant(sizes.chunks - 1))
        self.store_state(state)
        if plan.keeps:
            m.wait_out(0)

    # copies ----------------------------------------------------------------------------------

    def place(self, step: Int) -> Int:
        """The chunk of a step."""
        return step * -1 + (self.sizes.chunks - 1) if self.plan.transposed else step

    def row(self, step: Int, row: Int, heads: int, head: Int) -> Int:
        """Row of an array `(B, T, heads, ...)`; that of the last token past the end."""
        place = self.place(step) * CHUNK + row
        if self.sizes.ragged:
            place = place.minimum(self.sizes.time - 1)
        return (self.batch * self.sizes.time + place) * heads + head

    def fetch(self, step: Int) -> None:
        """Starts the copy of a step's image, if there is one."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        with m.when(self.thread.equals(0) & (step < sizes.chunks)):
            stage = step.modulo(plan.stages)
            barrier = stage * 8 + plan.barriers_at
            m.barrier_expect(barrier, sizes.image_bytes)
            self.fetch_image(step, stage * plan.stage_bytes, barrier)
        m.reconverge()

    def fetch_values(self, step: Int) -> None:
        """Starts the copies of a step's values, if there are any."""
        m, sizes, slot = self.machine, self.sizes, self.slot(step)
        with m.when(step < sizes.chunks):
            for row, unit in self.pieces():
                target = slot + row * ROW_PITCH + unit * 16
                source = self.row(step, row, self.value_heads, self.value_head)
                offset = self.tile * (VALUE_TILE * 2) + unit * 16
                m.load_ahead(target, self.values, source, 2 * sizes.value, offset)
        m.commit_loads()

    def fetch_image(self, step: Int, start: Int, barrier: Int) -> None:
        """Starts the copy of an image, by one thread."""
        m, sizes = self.machine, self.sizes
        image = self.sequence * sizes.chunks + self.place(step)
        size = sizes.image_bytes
        m.copy_in(start, self.image, image, size, m.constant(0), size, barrier)

    def slot(self, step: Int) -> Int:
        """Where the values of a step are, and then its outputs."""
        return step.modulo(self.plan.slots) * _TILE_BYTES + self.plan.values_at

    def pieces(self) -> list[tuple[Int, Int]]:
        """Rows and units of a tile of values that this thread copies."""
        units = VALUE_TILE // 8
        unit, row = self.thread & (units - 1), self.thread >> (units.bit_length() - 1)
        return [(row + i, unit) for i in range(0, CHUNK, THREADS // units)]

    def write_out(self, step: Int) -> None:
        """Outputs of a chunk to device memory."""
        m, sizes, source = self.machine, self.sizes, self.slot(step)
        for row, unit in self.pieces():
            words = m.load_shared(source + row * ROW_PITCH + unit * 16, 4)
            target = self.row(step, row, sizes.heads, self.head)
            offset = self.tile * (VALUE_TILE * 2) + unit * 16
            with m.when(self.place(step) * CHUNK + row < sizes.time):
                m.store_global(self.out, target, 2 * sizes.value, offset, words)

    def write_state(self, step: Int) -> None:
        """Starts the copy of the state before a chunk."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        with m.when(self.thread.equals(0)):
            row = self.sequence * sizes.chunks + self.place(step)
            row, size = row * plan.tiles + self.tile, plan.state_bytes
            zero, source = m.constant(0), m.constant(plan.states_at)
            m.copy_out(self.states, row, size, zero, source, size)
            m.commit_out()
        m.reconverge()

    # the state -------------------------------------------------------------------------------

    def state_place(self, index: int) -> tuple[Int, Int]:
        """Row (key) of an array of states `(B, heads, K, V)`, and byte in it, of a register."""
        sizes = self.sizes
        key = (self.lane & 3) * 2 + (8 * (index >> 2) + (index & 1))
        value = self.tile * VALUE_TILE + self.warp * 16 + (self.lane >> 2) + 8 * (index >> 1 & 1)
        head = self.batch * self.value_heads + self.value_head
        return head * sizes.key + key, value * 4

    def load_state(self) -> list[Any]:
        """Registers of the state: those of 16 x 8 tiles, keys along their columns."""
        m, sizes = self.machine, self.sizes
        if self.initial is None:
            return [m.zero()] * (sizes.key // 2)
        state = []
        for index in range(sizes.key // 2):
            row, offset = self.state_place(index)
            (word,) = m.load_global(self.initial, offset, 1, row, 4 * sizes.value)
            state.append(m.float(word))
        return state

    def store_state(self, state: Sequence[Any]) -> None:
        """To the array of final states, once for the query heads that share it."""
        m, sizes = self.machine, self.sizes
        shared = 1 if self.plan.transposed else sizes.shared
        with m.when(self.head.modulo(shared).equals(0)):
            for index, value in enumerate(state):
                row, offset = self.state_place(index)
                m.store_global(self.final, row, 4 * sizes.value, offset, [m.bits(value)])

    # a chunk ---------------------------------------------------------------------------------

    def step(self, step: Int, state: Sequence[Any]) -> list[Any]:
        """Outputs of one chunk, and the state after it."""
        plan, m = self.plan, self.machine
        stage = step.modulo(plan.stages)
        start = stage * plan.stage_bytes
        m.barrier_wait(stage * 8 + plan.barriers_at, step.divide(plan.stages) & 1)
        slot = self.slot(step)
        values = self.load_values(slot)
        packed = self.pack(state)
        # before the products, which then follow each other
        made = m.warpgroup_begin([*self.decay(state, start), *packed, *values])
        state, packed = made[: len(state)], made[len(state) : len(state) + len(packed)]
        values = made[len(state) + len(packed) :]
        found = self.attend(packed, values, start) if plan.reads else []
        state = self.add(state, values, start)
        # what is left of the last step, while the products run
        if plan.reads:
            with m.when(step >= 1):
                self.write_out(step - 1)
        if plan.keeps:
            m.wait_out(0)
            m.synchronize()
            self.stage_state(packed)
            m.release_to_copies()
        if plan.reads:
            # a warp's outputs take the place of its own values
            self.stage_outputs(m.warpgroup_wait(1, found), slot)
        state = m.warpgroup_wait(0, state)
        m.wait_loads(plan.slots - 3)
        m.synchronize()
        self.fetch(step + plan.stages)
        self.fetch_values(step + (plan.slots - 1))
        if plan.keeps:
            self.write_state(step)
        return state

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """Results in bfloat16: left operands."""
        return [self.machine.pack(*values[i : i + 2]) for i in range(0, len(values), 2)]

    def decay(self, state: Sequence[Any], start: Int) -> list[Any]:
        """The state with the decay of a chunk."""
        m = self.machine
        at, decayed = start + self.sizes.decay_at + (self.lane & 3) * 8, []
        for index in range(0, len(state), 4):
            low, high = (m.float(word) for word in m.load_shared(at + 8 * index, 2))
            for i, value in enumerate(state[index : index + 4]):
                decayed.append(m.multiply(value, low if i % 2 == 0 else high))
        return decayed

    def load_values(self, start: Int) -> list[Any]:
        """Left operands: 16 values of this warp by 16 tokens, for the four parts of the chunk."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + row * ROW_PITCH + unit * 16 + self.warp * 32
        return [
            word
            for part in range(CHUNK // 16)
            for word in m.load_matrices(at + part * 16 * ROW_PITCH, transpose=True)
        ]

    def attend(self, packed: Sequence[Any], values: Sequence[Any], start: Int) -> list[Any]:
        """Starts `S^T Q^T + V^T P^T`, 16 values a warp by 64 tokens."""
        m, sizes, transposed = self.machine, self.sizes, self.plan.transposed
        found = m.warpgroup_begin([m.zero()] * (CHUNK // 2))
        for step in range(sizes.key // 16):
            at = start + (self.reading + (step >> 2) * (CHUNK * 128) + (step & 3) * 32)
            words = packed[4 * step : 4 * step + 4]
            found = m.warpgroup_product(found, words, at, transpose=False, panel=0)
        for part in range(CHUNK // 16):
            at = start + (sizes.scores_at + part * (16 * 128 if transposed else 32))
            words = values[4 * part : 4 * part + 4]
            found = m.warpgroup_product(found, words, at, transpose=transposed, panel=CHUNK * 128)
        m.warpgroup_commit()
        return found

    def add(self, state: Sequence[Any], values: Sequence[Any], start: Int) -> list[Any]:
        """Starts the addition of `V^T K` to the decayed state."""
        m = self.machine
        for part in range(CHUNK // 16):
            at, words = start + (self.writing + part * 16 * 128), values[4 * part : 4 * part + 4]
            state = m.warpgroup_product(state, words, at, transpose=True, panel=CHUNK * 128)
        m.warpgroup_commit()
        return list(state)

    def stage_outputs(self, found: Sequence[Any], start: Int) -> None:
        """Outputs, transposed, to their rows."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + row * ROW_PITCH + unit * 16 + self.warp * 32
        for part in range(CHUNK // 16):
            words = self.pack(found[8 * part : 8 * part + 8])
            m.store_matrices(at + part * 16 * ROW_PITCH, words, transpose=True)

    def stage_state(self, packed: Sequence[Any]) -> None:
        """The state, values along rows, to its tile."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        at = (row + self.warp * 16) * 128 + self.plan.states_at
        for step in range(self.sizes.key // 16):
            place = at + permuted(unit ^ (2 * (step & 3)), row) + (step >> 2) * (VALUE_TILE * 128)
            m.store_matrices(place, packed[4 * step : 4 * step + 4], transpose=False)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`: (images, values, state) to (state, outputs)."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs).run()

    return run

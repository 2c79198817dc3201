"""The recurrence over the chunks of a sequence: outputs, states and the final state.

A block of threads holds 64 values of one head's state, transposed, in registers: 16 values of all
keys a warp, as the result of a tensor-core product, which is at once the left operand of the next.
Images of chunks and rows of values come in by asynchronous copies, some chunks ahead.

    out^T   = S^T Q^T + V^T P^T            S before the chunk
    S'^T    = S^T * decay + V^T K          Q and K weighted, see `prepare`

Run from the end, with cotangents of outputs as values, queries and keys in each other's places and
the scores transposed, the same gives gradients of values and of states.
"""

import contextlib
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
# Keys whose left operands, with outputs, fit in registers beside the state.
_OPERAND_KEYS = 128
_OUT_BYTES = CHUNK * ROW_PITCH


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        sizes: of the call.
        stages: chunks on their way.
        state_buffers: places of states that are kept, on theirs to device memory; with more than
            one, a copy may be under way during a step that waits for others.
        transposed: whether it runs from the end, as above.
        keeps: whether it writes the states before chunks: before every one, or, of pairs, the first
            in the order of its steps; and always that before its first step.
        reads: whether it writes outputs; else the final state is all.
    """

    sizes: Sizes
    stages: int
    state_buffers: int = 2
    transposed: bool = False
    keeps: bool = False
    reads: bool = True

    @property
    def stage_bytes(self) -> int:
        """An image and its rows of values, in whole panels' alignment."""
        return -(-(self.sizes.image_bytes + CHUNK * ROW_PITCH) // 1024) * 1024

    @property
    def barriers_at(self) -> int:
        """Where barriers start, after stages, two tiles of outputs and those of states."""
        return self.states_at + self.state_buffers * self.state_bytes * self.keeps

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def outputs_at(self) -> int:
        """Where outputs wait for their copy."""
        return self.stages * self.stage_bytes

    @property
    def states_at(self) -> int:
        """Where states wait for theirs."""
        return self.outputs_at + 2 * _OUT_BYTES

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
    """The plan with three stages, or two; with room for a copy of a state under way, or without."""
    room = 2 if sizes.paired else 3
    for stages, buffers in ((3, room), (2, room), (2, 1)):
        plan = Plan(sizes, stages, buffers, transposed, keeps, reads)
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
        block = m.cluster()
        self.tile, self.sequence = block.modulo(plan.tiles), block.divide(plan.tiles)
        self.head = self.sequence.modulo(sizes.heads)
        self.batch = self.sequence.divide(sizes.heads)
        self.thread, self.lane, self.warp = m.thread(), m.lane(), m.warp()
        # values and states are those of key heads, cotangents and theirs those of query heads
        self.state_heads, self.state_head = sizes.groups, sizes.group_of(self.head)
        if plan.transposed:
            self.state_heads, self.state_head = sizes.heads, self.head
        # weighted queries and keys, as the products take them
        self.reading, self.writing = 0, sizes.tile_bytes
        if plan.transposed:
            self.reading, self.writing = self.writing, self.reading

    def run(self) -> None:
        """All chunks."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        with m.when(self.thread.equals(0)):
            for stage in range(plan.stages):
                m.barrier_init(plan.barriers_at + 8 * stage, 1 + THREADS)
        m.synchronize()
        for stage in range(plan.stages):
            self.fetch(m.constant(stage))
        state = self.load_state()
        self.keep_first(state)
        state = m.loop(0, sizes.chunks, 1, self.step, state)
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

    def kept_place(self, step: Int) -> Int:
        """Where the state of a step is kept."""
        return self.place(step) >> int(self.sizes.paired)

    def if_kept(self, step: Int) -> contextlib.AbstractContextManager[None]:
        """What follows is for steps whose state is kept; of pairs, never two after each other."""
        if not self.sizes.paired:
            return contextlib.nullcontext()
        return self.machine.when((self.place(step) & 1).equals(int(self.plan.transposed)))

    def kept_at(self, step: Int) -> Int:
        """Where the state of a step is staged."""
        buffer = self.kept_place(step).modulo(self.plan.state_buffers)
        return buffer * self.plan.state_bytes + self.plan.states_at

    def keep_first(self, state: Sequence[Any]) -> None:
        """Keeps the state before the first step where `if_kept` would not."""
        plan, m, step = self.plan, self.machine, self.machine.constant(0)
        if plan.keeps and plan.transposed and self.sizes.paired and self.sizes.chunks % 2:
            self.stage_state(self.lefts(state), 0, self.kept_at(step))
            m.release_to_copies()
            m.synchronize()
            self.write_state(step, self.kept_at(step))

    def fetch(self, step: Int) -> None:
        """Starts the copies of a step's chunk, if there is one."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(plan.stages)
        barrier, start = stage * 8 + plan.barriers_at, stage * plan.stage_bytes
        with m.when(step < sizes.chunks):
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
            # not in groups, which share a counter with those of copies out
            m.loads_arrive(barrier)
        m.reconverge()

    def pieces(self) -> list[tuple[Int, Int]]:
        """Rows and units of a tile of values that this thread copies."""
        units = VALUE_TILE // 8
        unit, row = self.thread & (units - 1), self.thread >> (units.bit_length() - 1)
        return [(row + i, unit) for i in range(0, CHUNK, THREADS // units)]

    def write_out(self, step: Int, source: Int) -> None:
        """Outputs of a chunk to device memory."""
        m, sizes = self.machine, self.sizes
        for row, unit in self.pieces():
            words = m.load_shared(source + row * ROW_PITCH + unit * 16, 4)
            target = self.row(step, row, sizes.heads, self.head)
            offset = self.tile * (VALUE_TILE * 2) + unit * 16
            with m.when(self.place(step) * CHUNK + row < sizes.time):
                m.store_global(self.out, target, 2 * sizes.value, offset, words)

    def write_state(self, step: Int, source: Int) -> None:
        """Starts the copy of the state before a chunk."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        with m.when(self.thread.equals(0)):
            parts = sizes.in_parts().parts
            size = plan.state_bytes // parts
            for part in range(parts):
                row = (self.sequence * parts + part) * sizes.kept + self.kept_place(step)
                row = row * plan.tiles + self.tile
                m.copy_out(self.states, row, size, m.constant(0), source + part * size, size)
            m.commit_out()
        m.reconverge()

    # the state -------------------------------------------------------------------------------

    def state_place(self, index: int) -> tuple[Int, Int, int]:
        """Row of an array of states `(B, heads, K, V)`, byte in it, displacement, of a register."""
        sizes = self.sizes
        row = (self.batch * self.state_heads + self.state_head) * sizes.key + (self.lane & 3) * 2
        value = self.tile * VALUE_TILE + self.warp * 16 + (self.lane >> 2)
        key = 8 * (index >> 2) + (index & 1)
        return row, value * 4, 4 * (key * sizes.value + 8 * (index >> 1 & 1))

    def load_state(self) -> list[Any]:
        """Registers of the state: those of 16 x 8 tiles, keys along their columns."""
        m, sizes = self.machine, self.sizes
        if self.initial is None:
            return [m.zero()] * (sizes.key // 2)
        state, pitch = [], 4 * sizes.value
        for index in range(sizes.key // 2):
            row, offset, displacement = self.state_place(index)
            (word,) = m.load_global(self.initial, offset, 1, row, pitch, displacement=displacement)
            state.append(m.float(word))
        return state

    def store_state(self, state: Sequence[Any]) -> None:
        """To the array of final states, once for the query heads that share it."""
        m, pitch = self.machine, 4 * self.sizes.value
        shared = 1 if self.plan.transposed else self.sizes.shared
        with m.when(self.head.modulo(shared).equals(0)):
            for index, value in enumerate(state):
                row, offset, displacement = self.state_place(index)
                words = [m.bits(value)]
                m.store_global(self.final, row, pitch, offset, words, displacement=displacement)

    # a chunk ---------------------------------------------------------------------------------

    def step(self, step: Int, state: Sequence[Any]) -> list[Any]:
        """Outputs of one chunk, and the state after it."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(plan.stages)
        start = stage * plan.stage_bytes
        m.barrier_wait(stage * 8 + plan.barriers_at, step.divide(plan.stages) & 1)
        values = self.load_values(start + sizes.image_bytes)
        kept = self.kept_at(step)
        out = (step & 1) * _OUT_BYTES + plan.outputs_at
        found = self.attend(step, state, values, start, kept) if plan.reads else []
        if plan.reads and sizes.key > _OPERAND_KEYS:
            found = m.warpgroup_wait(0, found)
        state = self.next_state(state, values, start)
        if plan.reads:
            self.stage_outputs(m.warpgroup_wait(1, found), out)
        state = m.warpgroup_wait(0, state)
        if plan.keeps:
            m.wait_out(min(plan.state_buffers - 1, 1))
            with self.if_kept(step):
                m.release_to_copies()
        m.synchronize()
        self.fetch(step + plan.stages)
        if plan.keeps:
            with self.if_kept(step):
                self.write_state(step, kept)
        if plan.reads:
            self.write_out(step, out)
        return state

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """16 x 16 results in bfloat16: a left operand."""
        return [self.machine.pack(*values[i : i + 2]) for i in range(0, 8, 2)]

    def lefts(self, state: Sequence[Any]) -> list[list[Any]]:
        """Left operands of these keys."""
        return [self.pack(state[i : i + 8]) for i in range(0, len(state), 8)]

    def load_values(self, start: Int) -> list[list[Any]]:
        """Left operands: 16 values of this warp by 16 tokens, for the four parts of the chunk."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + row * ROW_PITCH + unit * 16 + self.warp * 32
        return [
            m.load_matrices(at + part * 16 * ROW_PITCH, transpose=True)
            for part in range(CHUNK // 16)
        ]

    def attend(
        self, step: Int, state: Sequence[Any], values: Sequence[Any], start: Int, kept: Int
    ) -> list[Any]:
        """Starts `S^T Q^T + V^T P^T`, 16 values a warp by 64 tokens; stages the state, if kept.

        Left operands of more keys than have registers take turns.
        """
        m, sizes, found = self.machine, self.sizes, [self.machine.zero()] * (CHUNK // 2)
        for first in range(0, sizes.key, _OPERAND_KEYS):
            if first > 0:
                found = m.warpgroup_wait(0, found)
            packed = self.lefts(state[first // 2 : (first + _OPERAND_KEYS) // 2])
            if self.plan.keeps:
                with self.if_kept(step):
                    self.stage_state(packed, first, kept)
            last = first + _OPERAND_KEYS >= sizes.key
            found = self.read(found, packed, values if last else (), first, start)
        return found

    def read(
        self,
        found: Sequence[Any],
        packed: Sequence[Sequence[Any]],
        values: Sequence[Sequence[Any]],
        first: int,
        start: Int,
    ) -> list[Any]:
        """Adds `S^T Q^T` of keys from the first of these on, and of values `V^T P^T`."""
        m, sizes, transposed = self.machine, self.sizes, self.plan.transposed
        flat = [word for words in (*packed, *values) for word in words]
        made = m.warpgroup_begin([*found, *flat])
        found, flat = made[: len(found)], made[len(found) :]
        lefts = [flat[i : i + 4] for i in range(0, len(flat), 4)]
        for step, words in enumerate(lefts[: len(packed)], first // 16):
            at = start + (self.reading + (step >> 2) * (CHUNK * 128) + (step & 3) * 32)
            found = m.warpgroup_product(found, words, at, transpose=False, panel=0)
        for part, words in enumerate(lefts[len(packed) :]):
            at = start + (sizes.scores_at + part * (16 * 128 if transposed else 32))
            found = m.warpgroup_product(found, words, at, transpose=transposed, panel=CHUNK * 128)
        m.warpgroup_commit()
        return list(found)

    def next_state(self, state: Sequence[Any], values: Sequence[Any], start: Int) -> list[Any]:
        """Starts `S^T * decay + V^T K`."""
        m, sizes = self.machine, self.sizes
        at, decayed = start + sizes.decay_at + (self.lane & 3) * 8, []
        for index in range(0, len(state), 4):
            low, high = (m.float(word) for word in m.load_shared(at + 8 * index, 2))
            for i, value in enumerate(state[index : index + 4]):
                decayed.append(m.multiply(value, low if i % 2 == 0 else high))
        state = m.warpgroup_begin(decayed)
        for part, words in enumerate(values):
            at = start + (self.writing + part * 16 * 128)
            state = m.warpgroup_product(state, words, at, transpose=True, panel=CHUNK * 128)
        m.warpgroup_commit()
        return state

    def stage_outputs(self, found: Sequence[Any], start: Int) -> None:
        """Outputs, transposed, to their rows."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + row * ROW_PITCH + unit * 16 + self.warp * 32
        for part in range(CHUNK // 16):
            words = self.pack(found[8 * part : 8 * part + 8])
            m.store_matrices(at + part * 16 * ROW_PITCH, words, transpose=True)

    def stage_state(self, packed: Sequence[Sequence[Any]], first: int, start: Int) -> None:
        """The state of keys from the first of these on, values along rows, to its tile."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        at = start + (row + self.warp * 16) * 128
        for step, words in enumerate(packed, first // 16):
            place = at + permuted(unit ^ (2 * (step & 3)), row) + (step >> 2) * (VALUE_TILE * 128)
            m.store_matrices(place, words, transpose=False)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`: (images, values, state) to (state, outputs)."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs).run()

    return run

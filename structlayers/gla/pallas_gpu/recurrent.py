"""The recurrence over the chunks of a sequence: outputs, states and the final state.

A block of threads holds 64 values of one head's state, transposed, in registers: 16 values of up to
128 keys a warp, as the result of a tensor-core product, which is at once the left operand of the
next. With 256 keys two warpgroups have half of them each and exchange what they find of outputs.
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

_WARPGROUP = 128
_KEYS = 128  # of a warpgroup, as many as registers hold with outputs and operands
_OUT_BYTES = CHUNK * ROW_PITCH


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        sizes: of the call.
        stages: chunks on their way.
        transposed: whether it runs from the end, as above.
        keeps: whether it writes the state before every chunk.
        reads: whether it writes outputs; else the final state is all.
    """

    sizes: Sizes
    stages: int
    transposed: bool = False
    keeps: bool = False
    reads: bool = True

    @property
    def stage_bytes(self) -> int:
        """An image and its rows of values, in whole panels' alignment."""
        return -(-(self.sizes.image_bytes + CHUNK * ROW_PITCH) // 1024) * 1024

    @property
    def warpgroups(self) -> int:
        """Of a block, each with its keys."""
        return -(-self.sizes.key // _KEYS)

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.warpgroups * _WARPGROUP

    @property
    def keys(self) -> int:
        """Of a warpgroup."""
        return self.sizes.key // self.warpgroups

    @property
    def share(self) -> int:
        """Parts of 16 tokens of the scores, and of the outputs, of a warpgroup."""
        return CHUNK // 16 // self.warpgroups

    @property
    def sums_at(self) -> int:
        """Where sums of outputs wait for the other warpgroup, after two tiles of states."""
        return self.states_at + 2 * self.state_bytes * self.keeps

    @property
    def barriers_at(self) -> int:
        """Where barriers start."""
        exchanged = VALUE_TILE * CHUNK * 4 if self.warpgroups > 1 and self.reads else 0
        return self.sums_at + exchanged

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
        block = m.cluster()
        self.tile, self.sequence = block.modulo(plan.tiles), block.divide(plan.tiles)
        self.head = self.sequence.modulo(sizes.heads)
        self.batch = self.sequence.divide(sizes.heads)
        self.thread, self.lane, self.warp = m.thread(), m.lane(), m.warp() & 3
        self.warpgroup = m.warp() >> 2
        # where panels of the keys of a warpgroup start in a tile of 64 rows
        self.panels_at = self.warpgroup * (plan.keys * CHUNK * 2)
        self.parts_at = self.warpgroup * plan.share
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
                m.barrier_init(plan.barriers_at + 8 * stage)
        m.synchronize()
        for stage in range(plan.stages):
            self.fetch(m.constant(stage))
        m.wait_loads(plan.stages - 1)
        m.synchronize()
        state = self.load_state()
        state = m.loop(0, sizes.chunks, 1, self.step, state)
        self.write(m.constant(sizes.chunks - 1))
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
                heads, head = self.state_heads // sizes.parts, self.state_head.divide(sizes.parts)
                source = self.row(step, row, heads, head)
                offset = self.tile * (VALUE_TILE * 2) + unit * 16
                m.load_ahead(target, self.values, source, 2 * sizes.value, offset)
        m.reconverge()
        m.commit_loads()

    def pieces(self) -> list[tuple[Int, Int]]:
        """Rows and units of a tile of values that this thread copies."""
        units = VALUE_TILE // 8
        unit, row = self.thread & (units - 1), self.thread >> (units.bit_length() - 1)
        return [(row + i, unit) for i in range(0, CHUNK, self.plan.threads // units)]

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
            row = self.sequence * sizes.chunks + self.place(step)
            row, size = row * plan.tiles + self.tile, plan.state_bytes
            m.copy_out(self.states, row, size, m.constant(0), source, size)
            m.commit_out()
        m.reconverge()

    # the state -------------------------------------------------------------------------------

    def state_place(self, index: int) -> tuple[Int, Int]:
        """Row (key) of an array of states `(B, heads, K, V)`, and byte in it, of a register."""
        sizes = self.sizes
        key = (self.lane & 3) * 2 + (8 * (index >> 2) + (index & 1))
        key = self.warpgroup * self.plan.keys + key
        value = self.tile * VALUE_TILE + self.warp * 16 + (self.lane >> 2) + 8 * (index >> 1 & 1)
        head = self.batch * self.state_heads + self.state_head
        return head * sizes.key + key, value * 4

    def load_state(self) -> list[Any]:
        """Registers of the state: those of 16 x 8 tiles, keys along their columns."""
        m, sizes, count = self.machine, self.sizes, self.plan.keys // 2
        if self.initial is None:
            return [m.zero()] * count
        state = []
        for index in range(count):
            row, offset = self.state_place(index)
            (word,) = m.load_global(self.initial, offset, 1, row, 4 * sizes.value)
            state.append(m.float(word))
        return state

    def store_state(self, state: Sequence[Any]) -> None:
        """To the array of final states, once for the query heads that share it."""
        m, sizes = self.machine, self.sizes
        shared = 1 if self.plan.transposed else sizes.shared
        with m.when(self.head.divide(sizes.parts).modulo(shared).equals(0)):
            for index, value in enumerate(state):
                row, offset = self.state_place(index)
                m.store_global(self.final, row, 4 * sizes.value, offset, [m.bits(value)])

    # a chunk ---------------------------------------------------------------------------------

    def step(self, step: Int, state: Sequence[Any]) -> list[Any]:
        """Outputs of one chunk, and the state after it."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(plan.stages)
        start = stage * plan.stage_bytes
        m.barrier_wait(stage * 8 + plan.barriers_at, step.divide(plan.stages) & 1)
        values = self.load_values(start + sizes.image_bytes)
        shared = values if plan.warpgroups == 1 else self.load_share(start + sizes.image_bytes)
        packed = [self.pack(state[i : i + 8]) for i in range(0, len(state), 8)]
        if plan.keeps:
            self.stage_state(packed, self.state_of(step))
        found, state = self.multiply(state, packed, values, shared, start)
        # while the tensor cores are at work
        with m.when(step >= 1):
            self.fetch(step + (plan.stages - 1))
            self.write(step - 1)
        m.reconverge()
        if plan.reads:
            self.stage_outputs(self.exchange(m.warpgroup_wait(1, found)), self.output_of(step))
        state = m.warpgroup_wait(0, state)
        if plan.keeps:
            m.wait_out(0)
            m.release_to_copies()
        m.wait_loads(plan.stages - 2)
        m.synchronize()
        return state

    def output_of(self, step: Int) -> Int:
        """Where outputs of a step wait."""
        return (step & 1) * _OUT_BYTES + self.plan.outputs_at

    def state_of(self, step: Int) -> Int:
        """Where the state before a step waits."""
        return (step & 1) * self.plan.state_bytes + self.plan.states_at

    def write(self, step: Int) -> None:
        """What a step has staged, to device memory."""
        if self.plan.keeps:
            self.write_state(step, self.state_of(step))
        if self.plan.reads:
            self.write_out(step, self.output_of(step))

    def pack(self, values: Sequence[Any]) -> list[Any]:
        """16 x 16 results in bfloat16: a left operand."""
        return [self.machine.pack(*values[i : i + 2]) for i in range(0, 8, 2)]

    def load_values(self, start: Int, parts: int = CHUNK // 16) -> list[list[Any]]:
        """Left operands: 16 values of this warp by 16 tokens, for some parts of the chunk."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + row * ROW_PITCH + unit * 16 + self.warp * 32
        return [
            m.load_matrices(at + part * 16 * ROW_PITCH, transpose=True) for part in range(parts)
        ]

    def load_share(self, start: Int) -> list[list[Any]]:
        """Those of the parts that the warpgroup multiplies by scores."""
        return self.load_values(start + self.parts_at * (16 * ROW_PITCH), self.plan.share)

    def multiply(
        self,
        state: Sequence[Any],
        packed: Sequence[Sequence[Any]],
        values: Sequence[Sequence[Any]],
        shared: Sequence[Sequence[Any]],
        start: Int,
    ) -> tuple[list[Any], list[Any]]:
        """Starts the products: of outputs, then of the state, in two groups.

        Args:
            state: before the chunk.
            packed: the same as left operands, by 16 keys.
            values: as left operands, by 16 tokens.
            shared: those that the warpgroup multiplies by scores.
            start: of the chunk's stage.

        Returns:
            Sums of outputs, 16 values a warp by 64 tokens, and of the state.
        """
        plan, m, sizes = self.plan, self.machine, self.sizes
        outputs = [m.zero()] * (CHUNK // 2 if plan.reads else 0)
        # the decay first: nothing may touch the state while its products are under way
        state = self.decayed(state, start + sizes.decay_at)
        if not plan.reads:
            packed = shared = ()
        elif plan.warpgroups == 1:
            shared = ()  # the same registers
        words = [word for left in (packed, shared, values) for x in left for word in x]
        begun = iter(m.warpgroup_begin([*outputs, *state, *words]))
        outputs, state = [next(begun) for _ in outputs], [next(begun) for _ in state]
        packed, shared, values = (
            [[next(begun) for _ in x] for x in left] for left in (packed, shared, values)
        )
        if plan.reads:
            outputs = self.attend(outputs, packed, shared or values, start)
            m.warpgroup_commit()
        for part, words in enumerate(values):
            at = self.panels_at + (start + self.writing + part * 16 * 128)
            state = m.warpgroup_product(state, words, at, transpose=True, panel=CHUNK * 128)
        m.warpgroup_commit()
        return outputs, state

    def attend(
        self,
        outputs: Sequence[Any],
        packed: Sequence[Sequence[Any]],
        values: Sequence[Sequence[Any]],
        start: Int,
    ) -> list[Any]:
        """Adds `S^T Q^T` of the warpgroup's keys, and `V^T P^T` of its share of the tokens."""
        plan, m, sizes, sums = self.plan, self.machine, self.sizes, list(outputs)
        for step, words in enumerate(packed):
            at = start + (self.reading + (step >> 2) * (CHUNK * 128) + (step & 3) * 32)
            sums = m.warpgroup_product(sums, words, self.panels_at + at, transpose=False, panel=0)
        pitch = 16 * 128 if plan.transposed else 32
        for part, words in enumerate(values):
            at = self.parts_at * pitch + (start + sizes.scores_at + part * pitch)
            sums = m.warpgroup_product(
                sums, words, at, transpose=plan.transposed, panel=CHUNK * 128
            )
        return sums

    def decayed(self, state: Sequence[Any], decay: Int) -> list[Any]:
        """The state times the decay of a chunk."""
        m, found = self.machine, []
        at = decay + self.warpgroup * (4 * self.plan.keys) + (self.lane & 3) * 8
        for index in range(0, len(state), 4):
            low, high = (m.float(word) for word in m.load_shared(at + 8 * index, 2))
            for i, value in enumerate(state[index : index + 4]):
                found.append(m.multiply(value, low if i % 2 == 0 else high))
        return found

    def exchange(self, found: Sequence[Any]) -> list[Any]:
        """Sums over all keys, of the warpgroup's share of the tokens."""
        plan, m = self.plan, self.machine
        if plan.warpgroups == 1:
            return list(found)
        first, count = self.warpgroup.equals(0), len(found) // 2
        halves = list(zip(found[:count], found[count:], strict=True))
        mine = [m.select(first, low, high) for low, high in halves]
        other = [m.select(first, high, low) for low, high in halves]
        at = plan.sums_at + (self.thread & (_WARPGROUP - 1)) * 16
        own = at + self.warpgroup * (_WARPGROUP * 4 * count)
        for index in range(0, count, 4):
            words = [m.bits(value) for value in other[index : index + 4]]
            m.store_shared(own + index * (_WARPGROUP * 4), words)
        m.synchronize()
        theirs, sums = at + (self.warpgroup ^ 1) * (_WARPGROUP * 4 * count), []
        for index in range(0, count, 4):
            words = m.load_shared(theirs + index * (_WARPGROUP * 4), 4)
            pairs = zip(mine[index : index + 4], words, strict=True)
            sums += [m.add(value, m.float(word)) for value, word in pairs]
        return sums

    def stage_outputs(self, found: Sequence[Any], start: Int) -> None:
        """Outputs, transposed, to their rows."""
        m = self.machine
        unit, row = (self.lane >> 3) & 1, (self.lane & 7) + (self.lane >> 4) * 8
        at = start + (self.parts_at * 16 + row) * ROW_PITCH + unit * 16 + self.warp * 32
        for part in range(self.plan.share):
            words = self.pack(found[8 * part : 8 * part + 8])
            m.store_matrices(at + part * 16 * ROW_PITCH, words, transpose=True)

    def stage_state(self, packed: Sequence[Sequence[Any]], start: Int) -> None:
        """The state in bfloat16, values along rows, to its tile."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        at = start + (row + self.warp * 16) * 128
        at = at + self.panels_at
        for step, words in enumerate(packed):
            place = at + permuted(unit ^ (2 * (step & 3)), row) + (step >> 2) * (VALUE_TILE * 128)
            m.store_matrices(place, words, transpose=False)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`: (images, values, state) to (state, outputs)."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs).run()

    return run

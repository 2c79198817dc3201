"""The recurrence over the chunks of a sequence: outputs, states and the final state.

A block holds 64 values of one head's state, transposed, and has two roles of four warps each. The
keeper has the state in registers, 16 values of all keys a warp, as the result of a tensor-core
product, and leaves it in shared memory as it was before each chunk. The reader makes outputs of
that and copies states that are kept to device memory. They meet at barriers of the places in
shared memory only, so that each waits for memory and tensor cores while the other works. Images of
chunks and rows of values come in by asynchronous copies, some chunks ahead.

    out^T   = S^T Q^T + V^T P^T            S before the chunk, the reader
    S'^T    = S^T * decay + V^T K          Q and K weighted, see `prepare`; the keeper

Run from the end, with cotangents of outputs as values, queries and keys in each other's places and
the scores transposed, the same gives gradients of values and of states.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.layout import CHUNK, ROW_PITCH, VALUE_TILE, lane_row, permuted
from structlayers.gla.pallas_gpu.recurrent_block import Block
from structlayers.gla.pallas_gpu.recurrent_plan import OUT_BYTES, TEAM, Plan


class Keeper(Block):
    """Who has the state."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], final: Any):
        super().__init__(plan, machine, inputs)
        self.final = final
        if plan.goes_on:
            self.initial = final

    def run(self) -> None:
        """All chunks."""
        if not self.plan.reads:
            self.fetch_first()
        state = self.machine.loop(0, len(self.plan.chunks), 1, self.step, self.load_state())
        self.store_state(state)

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
            (word,) = m.load_global(
                self.initial,
                offset,
                1,
                row,
                pitch,
                displacement=displacement,
                constant=not self.plan.goes_on,
            )
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

    def step(self, step: Int, state: Sequence[Any]) -> list[Any]:
        """The state after one chunk, and the one before it where the reader finds it."""
        plan, m = self.plan, self.machine
        if plan.reads:
            self.leave(step, state)
        stage, start, parity = self.stage_of(step)
        m.barrier_wait(stage * 8 + plan.arrived_at, parity)
        state = self.add(state, self.load_values(step), start)
        if plan.reads:
            self.arrive(stage * 8 + plan.used_at)
            return state
        m.synchronize()
        with m.when(step < len(plan.chunks) - plan.stages):
            self.fetch(step + plan.stages)
        m.reconverge()
        return state

    def leave(self, step: Int, state: Sequence[Any]) -> None:
        """The state, values along rows, in its place when what was there has been read."""
        plan, m = self.plan, self.machine
        buffer, start, parity = self.buffer_of(step)
        m.barrier_wait(buffer * 8 + plan.read_at, parity ^ 1)
        row, unit = lane_row(self.lane, rows_first=True)
        at = start + (row + self.warp * 16) * 128
        for part in range(self.sizes.key // 16):
            words = self.pack(state[8 * part : 8 * part + 8])
            place = at + permuted(unit ^ (2 * (part & 3)), row) + (part >> 2) * (VALUE_TILE * 128)
            m.store_matrices(place, words, transpose=False)
        m.release_to_copies()
        self.arrive(buffer * 8 + plan.staged_at)

    def add(self, state: Sequence[Any], values: Sequence[Any], start: Int) -> list[Any]:
        """`S^T * decay + V^T K`."""
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
        return m.warpgroup_wait(0, state)


class Reader(Block):
    """Who makes outputs of states, and asks for chunks."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], out: Any, states: Any):
        super().__init__(plan, machine, inputs)
        self.out, self.states = out, states

    def run(self) -> None:
        """All chunks."""
        self.fetch_first()
        self.machine.loop(0, len(self.plan.chunks), 1, self.step)

    def step(self, step: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Outputs of one chunk."""
        plan, m = self.plan, self.machine
        stage, _, parity = self.stage_of(step)
        m.barrier_wait(stage * 8 + plan.arrived_at, parity)
        found = self.attend(step)
        self.arrive(self.buffer_of(step)[0] * 8 + plan.read_at)
        out = (step & 1) * OUT_BYTES + plan.outputs_at
        self.stage_outputs(found, out)
        m.synchronize_team(m.constant(1), TEAM)
        with m.when(step < len(plan.chunks) - plan.stages):
            m.barrier_wait(stage * 8 + plan.used_at, parity)
            self.fetch(step + plan.stages)
        m.reconverge()
        self.write_out(step, out)
        return carried

    def attend(self, step: Int) -> list[Any]:
        """`S^T Q^T + V^T P^T`, 16 values a warp by 64 tokens."""
        plan, m, sizes, transposed = self.plan, self.machine, self.sizes, self.plan.transposed
        flat = [word for words in self.load_values(step) for word in words]
        made = m.warpgroup_begin([*[m.zero()] * (CHUNK // 2), *flat])
        found, flat = made[: CHUNK // 2], made[CHUNK // 2 :]
        _, start, _ = self.stage_of(step)
        for part in range(CHUNK // 16):
            at = start + (sizes.scores_at + part * (16 * 128 if transposed else 32))
            words = flat[4 * part : 4 * part + 4]
            found = m.warpgroup_product(found, words, at, transpose=transposed, panel=CHUNK * 128)
        buffer, state, parity = self.buffer_of(step)
        m.barrier_wait(buffer * 8 + plan.staged_at, parity)
        if plan.keeps:
            self.write_state(step, state)
        for part in range(sizes.key // 16):
            place = (part >> 2) * (CHUNK * 128) + (part & 3) * 32
            at = start + (self.reading + place)
            found = m.warpgroup_product(found, state + place, at, transpose=False, panel=0)
        m.warpgroup_commit()
        found = m.warpgroup_wait(0, found)
        if plan.keeps:
            m.wait_out(0)
        return found

    def if_kept(self, step: Int) -> contextlib.AbstractContextManager[None]:
        """What follows is for steps whose state is kept."""
        if not self.sizes.paired:
            return contextlib.nullcontext()
        odd = self.place(step) & 1
        if not self.plan.transposed:
            return self.machine.when(odd.equals(0))
        return self.machine.when(odd.equals(1) | step.equals(0))

    def write_state(self, step: Int, source: Int) -> None:
        """Starts the copy of the state before a chunk to device memory, if it is kept."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        with self.if_kept(step), m.when(self.thread.equals(0)):
            parts = sizes.in_parts().parts
            size, place = plan.state_bytes // parts, self.kept_place(step)
            for part in range(parts):
                row = (self.sequence * parts + part) * plan.kept + place
                row = row * plan.tiles + self.tile
                m.copy_out(self.states, row, size, m.constant(0), source + part * size, size)
            m.commit_out()
        m.reconverge()

    def stage_outputs(self, found: Sequence[Any], start: Int) -> None:
        """Outputs, transposed, to their rows."""
        at = start + self.matrices()
        for part in range(CHUNK // 16):
            words = self.pack(found[8 * part : 8 * part + 8])
            self.machine.store_matrices(at + part * 16 * ROW_PITCH, words, transpose=True)

    def write_out(self, step: Int, source: Int) -> None:
        """Outputs of a chunk to device memory."""
        m, sizes = self.machine, self.sizes
        for row, unit in self.pieces():
            words = m.load_shared(source + row * ROW_PITCH + unit * 16, 4)
            target = self.row(step, row, sizes.heads, self.head)
            offset = self.tile * (VALUE_TILE * 2) + unit * 16
            with m.when(self.place(step) * CHUNK + row < sizes.time):
                m.store_global(self.out, target, 2 * sizes.value, offset, words)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`: (images, values, state) to (state, outputs)."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        final, *rest = outputs
        keeper = Keeper(plan, machine, inputs, final)
        keeper.start_barriers()
        if not plan.reads:
            keeper.run()
            return
        out, *states = rest
        reader = Reader(plan, machine, inputs, out, states[0] if plan.keeps else None)
        machine.teams(TEAM, [keeper.run, reader.run])

    return run

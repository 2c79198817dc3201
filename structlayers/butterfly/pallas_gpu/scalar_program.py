"""One pass over memory in float32: every factor of a butterfly by fused multiply-adds.

A team of threads takes a tile of 4 rows at a time, 2 if they are complex. In shared memory the
tile stands column by column, 16 bytes for all its rows, so that one load brings a column whatever
the stride. A pass applies log2 R consecutive factors of radix 2: each thread holds R columns in
registers, and the 2x2 blocks that act on them stay in its registers for as long as the kernel
runs. The first pass reads rows, the last writes rows, and the columns in between go through shared
memory.

Where the blocks of N columns exceed the registers, the factors are split between two launches, and
the columns of each into segments that no factor of the launch leaves: consecutive columns for the
factors of small stride, interleaved runs of them for those of large stride. Every block of threads
keeps to one segment.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers._core.simt.pipeline import run_pipeline

_BARRIER_BYTES = 1024

type Values = list[list[tuple[Any, ...]]]  # of each column and row: the real, or both parts


@dataclasses.dataclass(frozen=True)
class Pass:
    """Consecutive factors of radix 2, ``radix`` columns ``stride`` apart in each thread."""

    radix: int
    stride: int

    @property
    def levels(self) -> range:
        """Levels of the factors."""
        start = self.stride.bit_length() - 1
        return range(start, start + self.radix.bit_length() - 1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of the kernel.

    Attributes:
        size: columns.
        rows: of the whole batch.
        passes: in the order in which they are applied.
        team: threads that share a tile.
        increasing: whether factors of small stride come first, within passes too.
        transform: N; a row holds one vector or several side by side.
        parts: 1 for real values, 2 for complex ones.
        threads: of a block.
        blocks: in the grid, a multiple of the segments.
        segments: of the columns.
        slots: tiles of input in flight for each team.
        pipelined: whether passes work on successive tiles side by side, one barrier a tile, rather
            than one after another on the same tile; that takes more registers.
    """

    size: int
    rows: int
    passes: tuple[Pass, ...]
    team: int
    increasing: bool
    transform: int
    parts: int = 1
    threads: int = 256
    blocks: int = 132
    segments: int = 1
    slots: int = 3
    pipelined: bool = False

    @property
    def columns(self) -> int:
        """Of a segment."""
        return self.size // self.segments

    @property
    def stride(self) -> int:
        """The smallest of the passes'."""
        return min(one.stride for one in self.passes)

    @property
    def runs(self) -> int:
        """Runs of consecutive columns in a segment."""
        return 1 if self.stride == 1 else math.prod(one.radix for one in self.passes)

    @property
    def tile_rows(self) -> int:
        """Rows of a tile: 16 bytes of a column."""
        return 4 // self.parts

    @property
    def teams(self) -> int:
        """Of a block."""
        return self.threads // self.team

    @property
    def tiles(self) -> int:
        """Of the batch."""
        return -(-self.rows // self.tile_rows)

    @property
    def pitch(self) -> int:
        """Bytes from row to row of an input tile."""
        return 4 * self.parts * self.columns

    @property
    def row_bytes(self) -> int:
        """From row to row of the batch."""
        return 4 * self.parts * self.size

    @property
    def tile_bytes(self) -> int:
        """Of 4 rows, as rows or as columns."""
        return 16 * self.columns

    @property
    def buffers(self) -> int:
        """Of columns: each tile in work has one, and so has the next one."""
        return len(self.passes) if self.pipelined else 2

    @property
    def team_bytes(self) -> int:
        """Slots and buffers of columns."""
        return (self.slots + self.buffers) * self.tile_bytes

    @property
    def shared_bytes(self) -> int:
        """Barriers and the teams' memory."""
        return _BARRIER_BYTES + self.teams * self.team_bytes


class Program:
    """The block's program for one plan."""

    def __init__(self, plan: Plan, machine: Machine, x: Any, twiddle: Any, y: Any):
        self.plan, self.machine = plan, machine
        self.x, self.twiddle, self.y = x, twiddle, y
        self.member = machine.thread() & (plan.team - 1)
        self.team = machine.thread() >> (plan.team.bit_length() - 1)
        self.memory = self.team * plan.team_bytes + _BARRIER_BYTES
        self.segment = machine.cluster().modulo(plan.segments)
        self.first = machine.cluster().divide(plan.segments) * plan.teams + self.team
        self.step = plan.blocks // plan.segments * plan.teams

    def run(self) -> None:
        """All tiles of this team."""
        plan, m = self.plan, self.machine
        with m.when(m.thread().equals(0)):
            for barrier in range(plan.teams * plan.slots):
                m.barrier_init(8 * barrier)
        m.synchronize()
        for slot in range(plan.slots):
            self.fetch(m.constant(slot))
        self.held = [self.load_blocks(number) for number in range(len(plan.passes))]
        self.count = (self.first * -1 + (plan.tiles - 1 + self.step)).divide(self.step)
        if not plan.pipelined:
            m.loop(0, self.count, 1, self.one_tile)
            return
        with m.when(self.count >= 1):
            run_pipeline(m, self.count, len(plan.passes) - 1, self.interval)

    def one_tile(self, step: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """One tile, from its slot to the result."""
        plan, m = self.plan, self.machine
        self.await_rows(step)
        for number in range(len(plan.passes)):
            if number:
                m.synchronize_team(self.team, plan.team)
            if number == 1:
                self.fetch(step + plan.slots)
            for group in range(self.groups(number)):
                self.finish(number, group, step, self.load(number, group, step))
        if len(plan.passes) == 1:
            m.synchronize_team(self.team, plan.team)
            self.fetch(step + plan.slots)
        return []

    def barrier(self, slot: Int) -> Int:
        """The barrier of a slot of this team."""
        return (self.team * self.plan.slots + slot) * 8

    def fetch(self, step: Int) -> None:
        """Starts the copy of a tile's rows into its slot, if there is such a tile."""
        plan, m = self.plan, self.machine
        slot, tile = step.modulo(plan.slots), self.first + step * self.step
        size, shift = plan.pitch // plan.runs, plan.runs.bit_length() - 1
        with m.when(self.member < plan.tile_rows * plan.runs), m.when(tile < plan.tiles):
            with m.when(self.member.equals(0)):
                m.barrier_expect(self.barrier(slot), plan.tile_bytes)
            place, run = self.member >> shift, self.member & (plan.runs - 1)
            row = (tile * plan.tile_rows + place).minimum(plan.rows - 1)
            target = self.memory + slot * plan.tile_bytes + place * plan.pitch + run * size
            offset = self.everywhere(run * (plan.columns // plan.runs)) * (4 * plan.parts)
            m.copy_in(target, self.x, row, plan.row_bytes, offset, size, self.barrier(slot))
        m.reconverge()

    def everywhere(self, column: Int) -> Int:
        """The column of the whole row that is this one of the segment."""
        plan = self.plan
        if plan.runs == 1:
            return column + self.segment * plan.columns
        share = plan.columns // plan.runs
        run, inner = column >> (share.bit_length() - 1), column & (share - 1)
        return run * plan.stride + self.segment * share + inner

    def local(self, one: Pass) -> int:
        """The stride of a pass within the segment."""
        return one.stride if self.plan.runs == 1 else one.stride // self.plan.segments

    def groups(self, number: int) -> int:
        """Groups of R columns of a thread in a pass."""
        return self.plan.columns // self.plan.passes[number].radix // self.plan.team

    def columns(self, one: Pass, group: int) -> list[Int]:
        """The R columns of a group of this thread."""
        stride = self.local(one)
        shift = stride.bit_length() - 1
        index = self.member + group * self.plan.team
        start = (index >> shift) << (shift + one.radix.bit_length() - 1)
        start = start + (index & (stride - 1))
        return [start + j * stride for j in range(one.radix)]

    def place(self, column: Int) -> Int:
        """Place of a column: each 8 permuted so that the columns of 8 threads differ in bank."""
        twist = (column >> 3) & 7
        for one in self.plan.passes:
            if self.local(one) >= 64:
                twist = twist ^ ((column >> (self.local(one).bit_length() - 1)) & 7)
        return column ^ twist

    def load_blocks(self, number: int) -> list[dict[tuple[int, int], list[tuple[Any, ...]]]]:
        """The 2x2 blocks of this thread's groups, by level and lower column."""
        plan, m = self.plan, self.machine
        one, groups = plan.passes[number], []
        for group in range(self.groups(number)):
            columns, blocks = self.columns(one, group), {}
            for level in one.levels:
                bit = 1 << (level - one.levels[0])
                for j in range(one.radix):
                    if j & bit:
                        continue
                    # block p*s + k of column p*2s + k
                    column = self.everywhere(columns[j]) & (plan.transform - 1)
                    inner = column & ((1 << level) - 1)
                    index = ((column >> (level + 1)) << level) + inner
                    offset = (index + level * (plan.transform // 2)) * (16 * plan.parts)
                    words = m.load_global(self.twiddle, offset, 4)
                    if plan.parts == 2:
                        words += m.load_global(self.twiddle, offset + 16, 4)
                    blocks[level, j] = self.group([m.float(word) for word in words])
            groups.append(blocks)
        return groups

    def interval(self, i: Int, passes: Sequence[int]) -> None:
        """Passes on a tile each: pass number p on this team's tile number ``i - p``.

        What a pass needs is loaded before the one before it is computed.
        """
        plan, m = self.plan, self.machine
        if 0 in passes:
            self.await_rows(i)
        steps = [(p, group, i - p) for p in passes for group in range(self.groups(p))]
        ahead = self.load(*steps[0])
        for this, following in itertools.pairwise(steps):
            values, ahead = ahead, self.load(*following)
            self.finish(*this, values)
        self.finish(*steps[-1], ahead)
        m.synchronize_team(self.team, plan.team)
        if 0 in passes:
            self.fetch(i + plan.slots)

    def slot(self, step: Int) -> tuple[Int, Int]:
        """Number of a tile's slot and its round; past the last tile, those of the last one."""
        newest = step.minimum(self.count - 1)
        return newest.modulo(self.plan.slots), newest.divide(self.plan.slots)

    def await_rows(self, step: Int) -> None:
        """Waits for the rows of a tile."""
        slot, turn = self.slot(step)
        self.machine.barrier_wait(self.barrier(slot), turn & 1)

    def buffer(self, step: Int) -> Int:
        """Where the columns of this team's tile number ``step`` lie."""
        plan = self.plan
        index = step.modulo(plan.buffers) + plan.slots
        return self.memory + index * plan.tile_bytes

    def load(self, number: int, group: int, step: Int) -> Values:
        """What a pass needs of a group of columns."""
        plan, m = self.plan, self.machine
        one = plan.passes[number]
        columns = self.columns(one, group)
        if number == 0:
            slot, _ = self.slot(step)
            return self.read_rows(one, self.memory + slot * plan.tile_bytes, columns)
        buffer = self.buffer(step)
        places = [self.place(column) * 16 + buffer for column in columns]
        return [self.group([m.float(w) for w in m.load_shared(at, 4)]) for at in places]

    def finish(self, number: int, group: int, step: Int, values: Values) -> None:
        """Multiplies and stores a group of columns."""
        plan, m = self.plan, self.machine
        one = plan.passes[number]
        columns = self.columns(one, group)
        self.multiply(one, self.held[number][group], values)
        if number == len(plan.passes) - 1:
            self.write_rows(one, step, columns, values)
            return
        buffer = self.buffer(step)
        for column, value in zip(columns, values, strict=True):
            words = [m.bits(part) for parts in value for part in parts]
            m.store_shared(self.place(column) * 16 + buffer, words)

    def group(self, values: list[Any]) -> list[tuple[Any, ...]]:
        """The parts of each number together."""
        parts = self.plan.parts
        return [tuple(values[i : i + parts]) for i in range(0, len(values), parts)]

    def multiply(self, one: Pass, blocks: dict, values: Values) -> None:
        """The factors of a pass on R columns of every row, in place."""
        levels = one.levels if self.plan.increasing else reversed(one.levels)
        for level in levels:
            bit = 1 << (level - one.levels[0])
            for j in range(one.radix):
                if j & bit:
                    continue
                a, b, c, d = blocks[level, j]
                for row in range(self.plan.tile_rows):
                    low, high = values[j][row], values[j | bit][row]
                    values[j][row] = self.combine(a, low, b, high)
                    values[j | bit][row] = self.combine(c, low, d, high)

    def combine(self, a: Any, x: Any, b: Any, y: Any) -> tuple[Any, ...]:
        """``a x + b y`` of numbers given by their parts."""
        m = self.machine
        if self.plan.parts == 1:
            return (m.fma(b[0], y[0], m.multiply(a[0], x[0])),)
        real = m.fma(a[0], x[0], m.negate(m.multiply(a[1], x[1])))
        real = m.fma(b[0], y[0], m.fma(m.negate(b[1]), y[1], real))
        imaginary = m.fma(a[1], x[0], m.multiply(a[0], x[1]))
        imaginary = m.fma(b[1], y[0], m.fma(b[0], y[1], imaginary))
        return real, imaginary

    def vector(self, one: Pass) -> int:
        """Consecutive columns that a thread reads or writes at a time: 16 bytes, or one column."""
        return min(one.radix, 4 // self.plan.parts) if self.local(one) == 1 else 1

    def read_rows(self, one: Pass, source: Int, columns: list[Int]) -> Values:
        """Columns of every row from the rows of an input tile."""
        plan, m, vector = self.plan, self.machine, self.vector(one)
        values: Values = [[] for _ in columns]
        for row in range(plan.tile_rows):
            for j in range(0, one.radix, vector):
                at = source + columns[j] * (4 * plan.parts) + row * plan.pitch
                words = m.load_shared(at, vector * plan.parts)
                for k, number in enumerate(self.group([m.float(word) for word in words])):
                    values[j + k].append(number)
        return values

    def write_rows(self, one: Pass, step: Int, columns: list[Int], values: Values) -> None:
        """Columns of every row to the rows of the result."""
        plan, m, vector = self.plan, self.machine, self.vector(one)
        for row in range(plan.tile_rows):
            at = (self.first + step * self.step) * plan.tile_rows + row
            with m.when(at < plan.rows):
                for j in range(0, one.radix, vector):
                    words = [m.bits(part) for k in range(vector) for part in values[j + k][row]]
                    offset = self.everywhere(columns[j]) * (4 * plan.parts)
                    m.store_global(self.y, at, plan.row_bytes, offset, words)


def program(plan: Plan) -> Any:
    """The program of a plan, for `launch` or `simulate`."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs[0], inputs[1], outputs[0]).run()

    return run

"""Images of chunks and the recurrence over them in one launch, by clusters of blocks.

A cluster has one sequence of one head, each of its blocks 64 of the V values. Most threads of a
block make images, those of every so many chunks as the cluster has blocks; the rest runs the
recurrence. An image goes to device memory, where a few of them have places in turn and so stay in
the L2, and from there to all blocks of the cluster in one copy, as soon as each has told the
block that made it that there is a place in its shared memory.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu import prepare, recurrent
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, SHARED_LIMIT, Sizes

# Blocks of a cluster on any device.
_LARGEST_CLUSTER = 8
_LINE = 128
_REGISTERS = (152, 200)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one launch does.

    Attributes:
        recurrence: of each block.
    """

    recurrence: recurrent.Plan

    @property
    def sizes(self) -> Sizes:
        """Of the call."""
        return self.recurrence.sizes

    @property
    def cluster_size(self) -> int:
        """Blocks of a cluster."""
        return self.recurrence.tiles

    @property
    def producers(self) -> int:
        """Threads of a block that make images."""
        return 2 * self.sizes.key

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.producers + recurrent.THREADS

    @property
    def registers(self) -> tuple[int, int] | None:
        """Of a thread that makes images and of one of the others; None as the block starts."""
        return _REGISTERS if self.threads > 256 else None

    @property
    def places(self) -> int:
        """Images of a sequence in device memory.

        A block that hands out one image and starts with another knows that all have read the image
        of a step as many stages before the first.
        """
        size = self.cluster_size
        return size * (1 + -(-self.recurrence.stages // size))

    @property
    def period(self) -> int:
        """Steps after which the same block has an image for the same stage."""
        return math.lcm(self.cluster_size, self.recurrence.stages)

    @property
    def free_at(self) -> int:
        """Where barriers of stages that are free in all blocks start."""
        return self.recurrence.shared_bytes

    @property
    def scratch_at(self) -> int:
        """Where the scratch of those that make images starts."""
        return -(-(self.free_at + 8 * self.recurrence.stages) // 128) * 128

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.scratch_at + prepare.team_bytes(self.sizes)


def make_plan(sizes: Sizes, *, transposed: bool = False, keeps: bool = False) -> Plan | None:
    """The plan with the most stages; None if two launches have to do."""
    if sizes.value // recurrent.VALUE_TILE > _LARGEST_CLUSTER:
        return None
    for stages, slots in ((3, 4), (3, 3), (2, 4)):
        plan = Plan(recurrent.Plan(sizes, stages, transposed, keeps, slots=slots))
        if plan.shared_bytes <= SHARED_LIMIT:
            return plan
    return None


def pays(sizes: Sizes) -> bool:
    """Whether one launch takes less time than two."""
    return True


class Producer(prepare.Program):
    """The threads that make images."""

    def __init__(self, plan: Plan, machine: Machine, arrays: Sequence[Any], image: Any):
        transposed = plan.recurrence.transposed
        super().__init__(plan.sizes, machine, arrays, image, from_end=transposed)
        self.plan, self.rank = plan, machine.rank()
        self.scratch += plan.scratch_at
        self.tiles_at += plan.scratch_at
        self.scores_at += plan.scratch_at
        # of the chunk that is weighed next, by array and row
        self.ahead: dict[tuple[int, int], list[Any]] = {}
        self.numbers = {id(self.gate): 0, id(self.q): 1, id(self.k): 2}

    @override
    def run(self) -> None:
        """Every image of this block, the arguments of the next one on their way meanwhile."""
        m, size, chunks = self.machine, self.plan.cluster_size, self.sizes.chunks
        self.go(self.rank)
        words = self.load_ahead()
        self.prefetch(self.rank + size)

        def turn(index: Int, words: Sequence[Any]) -> list[Any]:
            step = index * size + self.rank
            self.take(words)
            self.go(step)
            found = self.find_scores(self.weigh_image())
            self.prefetch(step + 2 * size)
            self.go(step + size)
            words = self.load_ahead()
            self.go(step)
            self.write_scores(found)
            m.release_global_to_copies()
            self.synchronize()
            self.hand_out(step)
            return words

        count = (self.rank * -1 + (chunks + size - 1)).divide(size)
        m.loop(0, count, 1, turn, words)

    def go(self, step: Int) -> None:
        """Goes to the chunk of a step, or the last one."""
        plan, sizes, cluster = self.plan, self.sizes, self.machine.cluster()
        step = step.minimum(sizes.chunks - 1)
        self.locate(step * sizes.sequences + cluster, from_end=self.from_end)
        self.block = cluster * plan.places + step.modulo(plan.places)

    def hand_out(self, step: Int) -> None:
        """Copies the image to all blocks, once there is a place for it in each."""
        plan, m, size = self.plan, self.machine, self.sizes.image_bytes
        recurrence = plan.recurrence
        stage = step.modulo(recurrence.stages)
        with m.when(self.thread.equals(0)):
            m.barrier_wait(stage * 8 + plan.free_at, step.divide(plan.period) & 1)
            target, barrier = stage * recurrence.stage_bytes, stage * 8 + recurrence.barriers_at
            zero, blocks = m.constant(0), plan.cluster_size
            m.copy_in(target, self.image, self.block, size, zero, size, barrier, blocks)
        m.reconverge()

    # arguments -------------------------------------------------------------------------------

    @override
    def load(self, array: Any, row: int, heads: int, head: Int, size: int) -> list[Any]:
        words = self.ahead.pop((self.numbers[id(array)], row), None)
        return super().load(array, row, heads, head, size) if words is None else words

    def load_ahead(self) -> list[Any]:
        """Arguments of this thread's rows."""
        return [
            word
            for array, heads, head, size in self.arguments()
            for row in range(ROWS)
            for word in super(Producer, self).load(array, row, heads, head, size)
        ]

    def take(self, words: Sequence[Any]) -> None:
        """Has words of `load_ahead` for what loads them next."""
        left = iter(words)
        for number, (_, _, _, size) in enumerate(self.arguments()):
            for row in range(ROWS):
                self.ahead[number, row] = [next(left) for _ in range(size // 2)]

    def arguments(self) -> list[tuple[Any, int, Int, int]]:
        """Arrays, their heads, the one of this sequence and the bytes of a number."""
        heads, groups = self.sizes.heads, self.sizes.groups
        return [
            (self.gate, groups, self.group, 4),
            (self.q, heads, self.head, 2),
            (self.k, groups, self.group, 2),
        ]

    def prefetch(self, step: Int) -> None:
        """Brings the arguments of a step's chunk into the L2, 128 bytes a thread."""
        m, key = self.machine, self.sizes.key
        self.go(step)
        first = 0
        for array, heads, head, size in self.arguments():
            units = size * key // _LINE
            count = CHUNK * units
            thread = self.thread - first
            with m.when((thread >= 0) & (thread < count)):
                place, _ = self.place(thread.divide(units))
                offset = thread.modulo(units) * _LINE
                m.prefetch(array, place * heads + head, size * key, offset)
            first = (first + count) % self.threads


class Consumer(recurrent.Program):
    """The threads that run the recurrence."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]):
        super().__init__(plan.recurrence, machine, inputs, outputs)
        self.free_at = plan.free_at

    @override
    def place_of_block(self) -> tuple[Int, Int]:
        return self.machine.cluster(), self.machine.rank()

    @override
    def fetch_image(self, step: Int, start: Int, barrier: Int) -> None:
        stage = step.modulo(self.plan.stages)
        rank = step.modulo(self.plan.tiles)
        self.machine.barrier_arrive_at_peer(rank, stage * 8 + self.free_at)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`.

    (q, k, log gate, values, state) to (state, outputs, kept states if any, images).
    """
    recurrence, size = plan.recurrence, plan.cluster_size

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        arrays, rest = inputs[:3], inputs[3:]
        *results, image = outputs

        def produce(part: Machine) -> None:
            if plan.registers:
                part.set_registers(plan.registers[0])
            Producer(plan, part, arrays, image).run()

        def consume(part: Machine) -> None:
            if plan.registers:
                part.set_registers(plan.registers[1])
            Consumer(plan, part, [image, *rest], results).run_chunks()

        with machine.when(machine.thread().equals(0)):
            for stage in range(recurrence.stages):
                machine.barrier_init(recurrence.barriers_at + 8 * stage)
                machine.barrier_init(plan.free_at + 8 * stage, size)
        machine.synchronize()
        synchronize_cluster(machine, size)
        machine.split([(plan.producers, produce), (recurrent.THREADS, consume)])
        # no block ends while others may still arrive there
        synchronize_cluster(machine, size)

    return run


def synchronize_cluster(machine: Machine, size: int) -> None:
    """Waits for all blocks of the cluster."""
    if size > 1:
        machine.cluster_arrive()
        machine.cluster_wait()

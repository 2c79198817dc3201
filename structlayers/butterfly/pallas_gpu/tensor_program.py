"""One pass over memory in bfloat16: every factor of a butterfly by tensor cores, rows on chip.

A block of threads takes a tile of ``8 m`` rows at a time. In shared memory the tile stands
column by column, 16 bytes for the 8 rows of a plane, so that one matrix load gathers any 32
columns whatever the stride between them: a factor multiplies the columns of each of its blocks in
place, and no factor needs a transposition. The weights of all factors stay in registers for as
long as the kernel runs.

Tiles follow each other through the factors as through a pipeline: in one interval between two
barriers the first factor works on one tile, the second on the tile before, and so on to the copy
to the result. So a tile costs one barrier, and the latencies of its steps lie side by side.

Where the weights of N columns exceed the registers of one block of threads, C of them form a
cluster and share the columns. All factors but the one of largest stride act on consecutive
columns, ``N/C`` for each; that one crosses them, and between it and the others the blocks exchange
columns through shared memory: consecutive ones for interleaved ones or back. Larger N take two
launches, on segments of consecutive and then of interleaved columns, or the reverse.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers._core.simt.pipeline import run_pipeline
from structlayers.butterfly.pallas_gpu.tensor_layout import BARRIER_BYTES, Columns, Factor, Plan


class Program:
    """The block's program for one plan."""

    def __init__(self, plan: Plan, machine: Machine, x: Any, weights: Any, y: Any):
        self.plan, self.machine = plan, machine
        self.x, self.weights, self.y = x, weights, y
        self.lane, self.warp = machine.lane(), machine.warp()
        self.first, self.rank = machine.cluster(), machine.rank()
        self.stride = plan.clusters // plan.segments  # in tiles, from one of a block to its next
        if plan.segments > 1:
            self.first = machine.cluster().divide(plan.segments)
            self.rank = machine.cluster().modulo(plan.segments)
        self.rings_at = BARRIER_BYTES + plan.slots * plan.input_bytes
        self.rings_bytes = sum(plan.rings) * plan.planes * plan.plane_bytes
        self.outputs_at = self.rings_at + self.rings_bytes
        self.crossing = plan.crossing
        self.layouts = [Columns(plan, None, self.rank)] * len(plan.factors)
        if plan.cluster_size > 1 or not plan.consecutive:
            at = plan.factors.index(self.crossing)
            self.layouts[at] = Columns(plan, self.crossing, self.rank)

    def run(self) -> None:
        """All tiles of this block."""
        plan, m = self.plan, self.machine
        with m.when(m.thread().equals(0)):
            for barrier in range(plan.slots + plan.rings[1]):
                m.barrier_init(8 * barrier)
        m.synchronize()
        if plan.cluster_size > 1:
            m.cluster_arrive()
            m.cluster_wait()
            m.cluster_arrive()
        for slot in range(plan.slots):
            self.fetch(m.constant(slot))
        self.held = self.load_weights()
        self.addresses = [
            self.factor_addresses(factor, layout)
            for factor, layout in zip(plan.factors, self.layouts, strict=True)
        ]
        # tiles of this block: first, first + stride, ...; their number rounded up
        self.count = (self.first * -1 + (plan.tiles - 1 + self.stride)).divide(self.stride)
        run_pipeline(m, self.count, plan.depth, self.interval)
        if plan.staged:
            m.wait_out(0)
        if plan.cluster_size > 1:
            m.cluster_wait()

    def interval(self, i: Int, delays: range) -> None:
        """Steps of these delays: one of every tile in the pipeline."""
        plan, m = self.plan, self.machine
        newest = i.minimum(self.count - 1)
        slot = newest.modulo(plan.slots)
        if 0 in delays:
            m.barrier_wait(slot * 8, newest.divide(plan.slots) & 1)
        if plan.staged and plan.depth in delays:
            self.copy_out(i - plan.depth)
        steps = self.steps(i, delays, slot * plan.input_bytes + BARRIER_BYTES)
        for plane in range(plan.planes):
            for group in range(plan.groups):
                loaded = [step.load(plane, group) for step in steps]
                for step, words in zip(steps, loaded, strict=True):
                    step.finish(plane, group, words)
        if plan.staged:
            m.wait_out(0)
            m.release_to_copies()
        if plan.cluster_size > 1:
            m.cluster_wait()
            m.cluster_arrive()
        m.synchronize()
        if 0 in delays:
            self.fetch(i + plan.slots)

    def steps(self, i: Int, delays: range, source: Int) -> list["Step"]:
        """Those of an interval; what is sent to a cluster is sent at once."""
        plan = self.plan
        found: list[Step] = []
        delay, ring = 0, 0
        if not plan.fused:
            if delay in delays:
                found.append(self.transpose_in(source, self.buffer(i, 0)))
            delay = 1
        for index, layout in enumerate(self.layouts):
            if index and layout is not self.layouts[index - 1]:
                if delay in delays:
                    self.exchange(i - delay, inward=layout.crossing is not None)
                ring, delay = 1, delay + 1
                if delay in delays:
                    self.await_exchange(i - delay)
            if delay in delays:
                origin = source if plan.fused and not index else None
                found.append(self.apply(index, self.buffer(i - delay, ring), origin))
            delay += 1
        if delay in delays:
            found.append(self.write_out(i - delay, self.buffer(i - delay, ring)))
        return found

    def buffer(self, step: Int, ring: int) -> Int:
        """Where the columns of this block's tile number ``step`` lie in a ring."""
        plan = self.plan
        before, size = plan.rings[0] * ring, plan.planes * plan.plane_bytes
        length = plan.rings[ring]
        return step.modulo(length) * size + (self.rings_at + before * size)

    def row(self, step: Int, place: IntLike) -> Int:
        """Row of the batch at a place of this block's tile number ``step``."""
        return (self.first + step * self.stride) * self.plan.tile_rows + place

    def fetch(self, step: Int) -> None:
        """Starts the copy of a tile's rows into its slot, if there is such a tile.

        Past the end of the batch the last row is repeated: defined values, never written out.
        """
        plan, m = self.plan, self.machine
        slot, thread = step.modulo(plan.slots), m.thread()
        segments = self.layouts[0].segments
        size, shift = 2 * plan.columns // segments, segments.bit_length() - 1
        there = (self.first + step * self.stride) < plan.tiles
        with m.when(thread < plan.tile_rows * segments), m.when(there):
            with m.when(thread.equals(0)):
                m.barrier_expect(slot * 8, 2 * plan.columns * plan.tile_rows)
            place, segment = thread >> shift, thread & (segments - 1)
            row = self.row(step, place).minimum(plan.rows - 1)
            target = slot * plan.input_bytes + place * plan.pitch + segment * size
            offset = self.layouts[0].everywhere(segment * (size // 2)) * 2
            m.copy_in(target + BARRIER_BYTES, self.x, row, 2 * plan.size, offset, size, slot * 8)
        m.reconverge()

    def load_weights(self) -> list[list[list[Any]]]:
        """Registers of this warp's tiles, for each factor and group of 32 columns."""
        plan, m = self.plan, self.machine
        held, start = [], 0
        for factor in plan.factors:
            count, size = 32 // factor.width * factor.tiles, 4 * factor.lane_words
            groups = []
            for group in range(plan.groups):
                first = ((self.rank * plan.warps + self.warp) * plan.groups + group) * count
                offset = (first * 32 + self.lane) * size + start
                tiles = [
                    m.load_global(self.weights, offset + 32 * size * tile, factor.lane_words)
                    for tile in range(count)
                ]
                if factor.lane_words == 2:
                    tiles = [[low, m.word(0), m.word(0), high] for low, high in tiles]
                groups.append(tiles)
            held.append(groups)
            start += plan.size // factor.width * factor.tiles * 32 * size
        return held

    def factor_addresses(self, factor: Factor, layout: Columns) -> list[Int]:
        """Where this lane's column of each group lies in a plane."""
        factor = layout.local(factor)
        shift = factor.width.bit_length() - 1
        found = []
        for group in range(self.plan.groups):
            product = (self.warp * self.plan.groups + group) * (32 // factor.width)
            column = factor.column(product + (self.lane >> shift), self.lane & (factor.width - 1))
            found.append(layout.place(column) * 16)
        return found

    def apply(self, index: int, columns: Int, source: Int | None) -> "Step":
        """Multiplies the columns of every group by their blocks, in place.

        With a source, the columns are consecutive and come from the rows of an input tile.
        """
        plan, m = self.plan, self.machine
        row = (self.lane & 7) * plan.pitch + (self.lane >> 3) * 16

        def place(plane: int, group: int) -> Int:
            return columns + self.addresses[index][group] + plane * plan.plane_bytes

        def load(plane: int, group: int) -> list[Any]:
            if source is None:
                return m.load_matrices(place(plane, group), transpose=True)
            start = (self.warp * plan.groups + group) * 64 + 8 * plane * plan.pitch
            return m.load_matrices(source + row + start, transpose=False)

        def finish(plane: int, group: int, right: list[Any]) -> None:
            words = self.multiply(plan.factors[index], self.held[index][group], right)
            m.store_matrices(place(plane, group), words, transpose=False)

        return Step(load, finish)

    def multiply(self, factor: Factor, tiles: list[Any], right: list[Any]) -> list[Any]:
        """Products of 32 columns of 8 rows."""
        m, words = self.machine, []
        side = factor.width // 16
        for product in range(32 // factor.width):
            for i in range(side):
                acc = [m.zero()] * 4
                for j in range(side):
                    tile = tiles[product * factor.tiles + i * side + j]
                    at = 2 * (product * side + j)
                    acc = m.tensor_product(acc, tile, right[at : at + 2])
                words += [m.pack(acc[0], acc[1]), m.pack(acc[2], acc[3])]
        return words

    def exchange_barrier(self, step: Int) -> Int:
        """The barrier that counts the columns which a tile gets from the cluster."""
        return step.modulo(self.plan.rings[1]) * 8 + 8 * self.plan.slots

    def exchange(self, step: Int, *, inward: bool) -> None:
        """Sends a tile's columns to the blocks of the cluster that need them next."""
        plan, m = self.plan, self.machine
        each = self.crossing.radix // plan.cluster_size
        columns, target = self.buffer(step, 0), self.buffer(step, 1)
        barrier = self.exchange_barrier(step)
        with m.when(m.thread().equals(0)):
            m.barrier_expect(barrier, plan.planes * plan.plane_bytes)
        for start in range(0, plan.columns, plan.threads):
            thread = m.thread() + start
            inner = thread & (plan.share - 1)
            segment = thread >> (plan.share.bit_length() - 1)
            peer, slice_ = segment >> (each.bit_length() - 1), segment & (each - 1)
            # one column, in consecutive and in interleaved order
            there = slice_ * self.crossing.stride + inner
            there = there + (peer if inward else self.rank) * plan.share
            here = ((self.rank if inward else peer) * each + slice_) * plan.share + inner
            source, goal = (there, here) if inward else (here, there)
            for plane in range(plan.planes):
                offset = plane * plan.plane_bytes
                words = m.load_shared(columns + source * 16 + offset, 4)
                m.store_to_peer(peer, target + goal * 16 + offset, words, barrier)
        m.reconverge()

    def await_exchange(self, step: Int) -> None:
        """Waits for the columns of a tile from the cluster."""
        parity = step.divide(self.plan.rings[1]) & 1
        self.machine.barrier_wait(self.exchange_barrier(step), parity)

    def transpose_in(self, source: Int, columns: Int) -> "Step":
        """Rows of an input tile to columns."""
        plan, m = self.plan, self.machine
        row = (self.lane & 7) * plan.pitch + (self.lane >> 3) * 16

        def load(plane: int, group: int) -> list[Any]:
            start = (group * plan.warps + self.warp) * 64 + 8 * plane * plan.pitch
            return m.load_matrices(source + row + start, transpose=False)

        def finish(plane: int, group: int, words: list[Any]) -> None:
            column = (group * plan.warps + self.warp) * 32 + self.lane
            place = self.layouts[0].place(column) * 16 + plane * plan.plane_bytes
            m.store_matrices(columns + place, words, transpose=True)

        return Step(load, finish)

    def write_out(self, step: Int, columns: Int) -> "Step":
        """Columns to rows of an output tile or of the result, 8 columns a thread."""
        plan, m, layout = self.plan, self.machine, self.layouts[-1]
        pair, matrix = self.lane & 7, self.lane >> 3
        column = ((pair >> 1) << 3) + (matrix << 1) + (pair & 1)

        def load(plane: int, group: int) -> list[Any]:
            chunk = group * plan.warps + self.warp
            place = layout.place(chunk * 32 + column) * 16 + plane * plan.plane_bytes
            return m.load_matrices(columns + place, transpose=True)

        def finish(plane: int, group: int, words: list[Any]) -> None:
            start = (group * plan.warps + self.warp) * 32 + (self.lane & 3) * 8
            place = (self.lane >> 2) + 8 * plane
            if plan.staged:
                m.store_shared(self.output(step) + place * plan.output_pitch + start * 2, words)
                return
            row, offset = self.row(step, place), layout.everywhere(start) * 2
            with m.when(row < plan.rows):
                m.store_global(self.y, row, 2 * plan.size, offset, words)
            m.reconverge()

        return Step(load, finish)

    def output(self, step: Int) -> Int:
        """Where the output tile of this block's tile number ``step`` lies."""
        return (step & 1) * self.plan.output_bytes + self.outputs_at

    def copy_out(self, step: Int) -> None:
        """Starts the copy of an output tile to the result."""
        plan, m = self.plan, self.machine
        layout = self.layouts[-1]
        size, shift = 2 * plan.columns // layout.segments, layout.segments.bit_length() - 1
        place, segment = m.thread() >> shift, m.thread() & (layout.segments - 1)
        row = self.row(step, place)
        with m.when(m.thread() < plan.tile_rows * layout.segments):
            with m.when(row < plan.rows):
                offset = layout.everywhere(segment * (size // 2)) * 2
                source = self.output(step) + place * plan.output_pitch + segment * size
                m.copy_out(self.y, row, 2 * plan.size, offset, source, size)
            m.commit_out()
        m.reconverge()


@dataclasses.dataclass(frozen=True)
class Step:
    """What one interval does to one tile, for each plane and group of 32 columns of a warp."""

    load: Callable[[int, int], list[Any]]
    finish: Callable[[int, int, list[Any]], None]


def program(plan: Plan) -> Any:
    """The program of a plan, for `launch` or `simulate`."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs[0], inputs[1], outputs[0]).run()

    return run

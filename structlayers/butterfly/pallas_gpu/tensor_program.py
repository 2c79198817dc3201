"""One pass over memory in bfloat16: every factor of a butterfly by tensor cores, rows on chip.

A block of threads takes a tile of ``8 m`` rows at a time, which its factors multiply in place
(`tensor_tiles`). The weights of all factors stay in registers for as long as the kernel runs.

Tiles follow each other through the factors as through a pipeline: in one interval between two
barriers the first factor works on one tile, the second on the tile before, and so on to the copy
to the result. So a tile costs one barrier, and the latencies of its steps lie side by side.

Where the weights of N columns exceed the registers of one block of threads, C of them form a
cluster and share the columns. All factors but the one of largest stride act on consecutive
columns, ``N/C`` for each; that one crosses them, and between it and the others the blocks exchange
columns through shared memory: consecutive ones for interleaved ones or back. Larger N take two
launches, on segments of consecutive and then of interleaved columns, or the reverse.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers._core.simt.pipeline import run_pipeline
from structlayers.butterfly.pallas_gpu.tensor_layout import (
    BARRIER_BYTES,
    Columns,
    Factor,
    Plan,
    Unmerged,
)
from structlayers.butterfly.pallas_gpu.tensor_merge import Merging
from structlayers.butterfly.pallas_gpu.tensor_tiles import HeldFactor, Input, Step, Tiles


class Program(Tiles[Plan]):
    """The block's program for one plan."""

    def __init__(self, plan: Plan, machine: Machine, x: Any, weights: Any, y: Any):
        first, rank = machine.cluster(), machine.rank()
        if plan.segments > 1:
            first = machine.cluster().divide(plan.segments)
            rank = machine.cluster().modulo(plan.segments)
        super().__init__(plan, machine, first, rank, plan.clusters // plan.segments)
        self.weights, self.y = weights, y
        self.rings_at = BARRIER_BYTES + plan.slots * plan.input_bytes
        self.rings_bytes = sum(plan.rings) * plan.buffer_bytes
        self.outputs_at = self.rings_at + self.rings_bytes
        self.crossing = plan.crossing
        self.layouts = [Columns(plan, None, rank)] * len(plan.factors)
        if plan.cluster_size > 1 or not plan.consecutive:
            at = plan.factors.index(self.crossing)
            self.layouts[at] = Columns(plan, self.crossing, rank)
        self.input = Input(x, self.layouts[0])

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
            self.fetch(self.input, m.constant(slot))
        self.held, start = [], plan.weights_at
        for factor, layout in zip(plan.factors, self.layouts, strict=True):
            if plan.unmerged:
                self.held.append(self.merge(factor, layout, plan.unmerged))
                continue
            self.held.append(self.hold(factor, layout, self.weights, start))
            start += factor.weight_bytes(plan.size)
        self.count = self.tile_count()
        run_pipeline(m, self.count, plan.depth, self.interval)
        if plan.staged:
            m.wait_out(0)
        if plan.cluster_size > 1:
            m.cluster_wait()

    def merge(self, factor: Factor, layout: Columns, unmerged: Unmerged) -> HeldFactor:
        """Makes this warp's weights of a factor, of products of 16 columns."""
        merging, groups = Merging(unmerged, self.machine, self.weights), []
        for group in range(self.plan.groups):
            first = (self.warp * self.plan.groups + group) * 2
            groups.append([merging.words(factor, first + product) for product in range(2)])
        return HeldFactor(factor, self.addresses(factor, layout), groups)

    def interval(self, i: Int, delays: range) -> None:
        """Steps of these delays: one of every tile in the pipeline."""
        plan, m = self.plan, self.machine
        if plan.staged and plan.depth in delays:
            self.copy_out(i - plan.depth)
        self.take(self.steps(i, delays))
        if plan.staged:
            m.wait_out(0)
            m.release_to_copies()
        if plan.cluster_size > 1:
            m.cluster_wait()
            m.cluster_arrive()
        m.synchronize()
        if 0 in delays:
            self.fetch(self.input, i + plan.slots)

    def steps(self, i: Int, delays: range) -> list[Step]:
        """Those of an interval; what is for the cluster is sent at once."""
        plan = self.plan
        found: list[Step] = []
        delay, ring, source = 0, 0, None
        if 0 in delays:
            source = self.arrived(self.input, i.minimum(self.count - 1))
        if not plan.fused:
            if source is not None:
                found.append(self.transpose_in(source, self.ring(i, 0), self.layouts[0]))
            source, delay = None, 1
        for index, layout in enumerate(self.layouts):
            if index and layout is not self.layouts[index - 1]:
                if delay in delays:
                    self.exchange(i - delay, inward=layout.crossing is not None)
                ring, delay = 1, delay + 1
                if delay in delays:
                    self.await_exchange(i - delay)
            if delay in delays:
                found.append(self.apply(self.held[index], self.ring(i - delay, ring), source))
            source, delay = None, delay + 1
        if delay in delays:
            found.append(self.write_out(i - delay, self.ring(i - delay, ring)))
        return found

    def ring(self, step: Int, ring: int) -> Int:
        """Where the columns of a tile lie before or after the exchange."""
        plan = self.plan
        start = self.rings_at + plan.rings[0] * ring * plan.buffer_bytes
        return self.buffer(step, start, plan.rings[ring])

    def exchange_barrier(self, step: Int) -> Int:
        """The barrier that counts the columns which a tile gets from the cluster."""
        return step.modulo(self.plan.rings[1]) * 8 + 8 * self.plan.slots

    def exchange(self, step: Int, *, inward: bool) -> None:
        """Sends a tile's columns to the blocks of the cluster that need them next."""
        plan, m = self.plan, self.machine
        each = self.crossing.radix // plan.cluster_size
        columns, target = self.ring(step, 0), self.ring(step, 1)
        barrier = self.exchange_barrier(step)
        with m.when(m.thread().equals(0)):
            m.barrier_expect(barrier, plan.buffer_bytes)
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

    def write_out(self, step: Int, columns: Int) -> Step:
        """Columns to rows of an output tile or of the result."""
        plan, m, layout = self.plan, self.machine, self.layouts[-1]

        def stage(place: Int, column: Int, words: list[Any]) -> None:
            m.store_shared(self.output(step) + place * plan.output_pitch + column * 2, words)

        store = stage if plan.staged else self.store_rows(self.y, step, layout)
        return self.write_rows(columns, layout, store)

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


def program(plan: Plan) -> Any:
    """The program of a plan, for `launch` or `simulate`."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs[0], inputs[1], outputs[0]).run()

    return run

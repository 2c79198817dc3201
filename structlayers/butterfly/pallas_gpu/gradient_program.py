"""The gradient of one merged factor of a butterfly in bfloat16, summed over all rows.

For a block of radix R, ``dW[i, j] = sum over rows of g[row, i] v[row, j]``: a product of tensor
cores whose sums run over the rows. Values and cotangents stand column by column like in the product
itself, and in that order 8 columns of 8 rows are an operand of either side. The sums of all rows
stay in registers, float32, for as long as the kernel runs, and beside them the weights of the one
factor that values or cotangents pass before; hence a launch for each factor.

Tiles of values and cotangents follow each other through these steps as through a pipeline. The
shorter chain starts later, so that both meet at the sums. Each block stores its sums, and the
caller adds them up: nothing depends on which block is first, the same bits in every run.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.butterfly.pallas_gpu.gradient_layout import Chain, GradientPlan
from structlayers.butterfly.pallas_gpu.tensor_layout import BARRIER_BYTES, Columns
from structlayers.butterfly.pallas_gpu.tensor_tiles import HeldFactor, Input, Step, Tiles


class Program(Tiles[GradientPlan]):
    """The block's program for one plan."""

    def __init__(self, plan: GradientPlan, machine: Machine, inputs: Sequence[Any], sums: Any):
        self.set = machine.cluster().divide(plan.segments)
        segment = machine.cluster().modulo(plan.segments)
        super().__init__(plan, machine, self.set, segment, plan.sets)
        x, dy, *self.weights = inputs
        self.sums = sums
        self.layout = Columns(plan, None if plan.consecutive else plan.crossing, segment)
        slots = plan.slots * plan.input_bytes
        # rows past the end of the batch count for nothing: their cotangents are zero
        zeros = (False, plan.rows % plan.tile_rows > 0)
        self.inputs = [
            Input(array, self.layout, BARRIER_BYTES + slots * at, 8 * plan.slots * at, zeros[at])
            for at, array in enumerate((x, dy))
        ]
        self.rings_at = BARRIER_BYTES + 2 * slots

    def run(self) -> None:
        """All tiles of this block."""
        plan, m = self.plan, self.machine
        rings = [chain.ring * plan.buffer_bytes for chain in plan.chains]
        with m.when(m.thread().equals(0)):
            for barrier in range(0, 16 * plan.slots, 8):
                m.barrier_init(barrier)
        self.clear(self.rings_at, sum(rings))
        m.synchronize()
        for slot in range(plan.slots):
            for source in self.inputs:
                self.fetch(source, m.constant(slot))
        m.synchronize()  # zeros in the place of rows are stores, which no arrival orders
        self.held: HeldFactor | None = None
        for chain in plan.chains:
            if chain.factor:
                self.held = self.hold(chain.factor, self.layout, self.weights[0], 0)
        self.addresses_of_sums = self.addresses(plan.summed, self.layout)
        self.count = self.tile_count()
        zeros = [m.zero()] * (4 * plan.fragments)
        values = m.loop(0, self.count + plan.depth, 1, self.interval, zeros)
        for index in range(plan.fragments):
            self.store(index, [m.bits(x) for x in values[4 * index : 4 * index + 4]])

    def interval(self, i: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """One step of every tile in the pipeline."""
        plan, m = self.plan, self.machine
        steps: list[Step] = []
        operands = []
        start = self.rings_at
        for chain, source in zip(plan.chains, self.inputs, strict=True):
            step = i - (plan.depth - chain.steps)
            slot = self.arrived(source, step.maximum(0).minimum(self.count - 1))
            rings = [self.buffer(step - at, start, chain.ring) for at in range(chain.ring)]
            steps += self.chain_steps(chain, slot, rings)
            operands.append(rings[-1] if rings else slot)
            start += chain.ring * plan.buffer_bytes
        sums = list(carried)
        self.take([self.add_up(sums, *operands), *steps])
        m.synchronize()
        for chain, source in zip(plan.chains, self.inputs, strict=True):
            late = plan.depth - chain.steps
            with m.when(i >= late):
                self.fetch(source, i - late + plan.slots)
        return sums

    def chain_steps(self, chain: Chain, slot: Int, rings: Sequence[Int]) -> list[Step]:
        """Those of one input; the tile of the n-th step lies in the n-th buffer."""
        steps = []
        if chain.transposed:
            steps.append(self.transpose_in(slot, rings[0], self.layout))
        if chain.factor:
            assert self.held
            origin = None if chain.transposed else slot
            steps.append(self.apply(self.held, rings[len(steps)], origin))
        return steps

    def add_up(self, sums: list[Any], v: Int, g: Int) -> Step:
        """Adds what two tiles give to the sums, in place."""

        def load(plane: int, group: int) -> list[Any]:
            pairs = zip(self.plan.chains, (v, g), strict=True)
            return [word for pair in pairs for word in self.operand(*pair, plane, group)]

        def finish(plane: int, group: int, words: list[Any]) -> None:
            self.accumulate(sums, group, words[4:], words[:4])

        return Step(load, finish)

    def operand(self, chain: Chain, columns: Int, plane: int, group: int) -> list[Any]:
        """Four matrices of 8 columns and 8 rows, columns first."""
        plan, m = self.plan, self.machine
        if not chain.steps:
            chunk = self.warp * plan.groups + group
            return m.load_matrices(self.row_address(columns, plane, chunk), transpose=True)
        address = columns + self.addresses_of_sums[group] + plane * plan.plane_bytes
        return m.load_matrices(address, transpose=False)

    def accumulate(self, sums: list[Any], group: int, g: list[Any], v: list[Any]) -> None:
        """Adds the products of 8 rows to the sums of a group."""
        plan, m = self.plan, self.machine
        at = group * (plan.fragments // plan.groups) * 4

        def add(*pairs: tuple[Sequence[Any], Any]) -> None:
            nonlocal at
            for left, right in pairs:
                sums[at : at + 4] = m.tensor_product(sums[at : at + 4], left, [right])
            at += 4

        for tile in range(0, 4, 2):
            if plan.summed.radix < 16:
                # the two diagonal blocks of a tile, each beside zeros, share their sums
                none = m.word(0)
                add(((g[tile], none), v[tile]), ((none, g[tile + 1]), v[tile + 1]))
                continue
            first = tile // (plan.summed.width // 8) * (plan.summed.width // 8)
            for column in range(first, first + plan.summed.width // 8):
                add((g[tile : tile + 2], v[column]))

    def store(self, index: int, words: Sequence[Any]) -> None:
        """Stores one of this thread's fragments."""
        plan, m = self.plan, self.machine
        place = (self.rank * plan.warps + self.warp) * plan.fragments + index
        pitch = 16 * 32 * plan.segments * plan.warps * plan.fragments
        m.store_global(self.sums, self.set, pitch, (place * 32 + self.lane) * 16, words)


def program(plan: GradientPlan) -> Any:
    """The program of a plan, for `launch` or `simulate`: of values, cotangents and weights."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs[0]).run()

    return run

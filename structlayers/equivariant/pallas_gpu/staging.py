"""Rows on their way between device memory, shared memory and the operands of the tensor cores.

Every warp has tiles, slots and barriers of its own, and waits for no other warp.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.equivariant.pallas_gpu.groups import GROUP, Group
from structlayers.equivariant.pallas_gpu.plan import Plan
from structlayers.equivariant.pallas_gpu.rows import RowLayout


class Offsets:
    """Bytes from the start of a tile to a lane's coefficient of a group, in row (g, 0)."""

    def __init__(self, machine: Machine, layout: RowLayout, itemsize: int):
        self.machine, self.layout, self.itemsize = machine, layout, itemsize
        lane = machine.lane()
        g, self._t = lane >> 2, lane & 3
        among = layout.among
        self._row = g.divide(among) * layout.piece_pitch + g.modulo(among) * layout.pitch
        self._regular = self._row + self._t * itemsize
        self._others: dict[Group, Int] = {}

    def __call__(self, group: Group) -> Int:
        """Of a group."""
        first = group[0]
        if group == tuple(range(first, first + GROUP)):
            return self._regular + first * self.itemsize
        if group not in self._others:
            self._others[group] = self._row + self._chosen(group)
        return self._others[group]

    def _chosen(self, group: Group) -> Int:
        m, chosen = self.machine, self.machine.word(group[-1] * self.itemsize)
        for t in range(GROUP - 1):
            if group[t] != group[-1]:
                chosen = m.select(self._t.equals(t), m.word(group[t] * self.itemsize), chosen)
        return m.integer_of(chosen)


class Staging:
    """The tiles of one warp: those numbered ``first``, ``first + stride`` and so on."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]):
        self.plan, self.machine = plan, machine
        self.inputs, self.outputs = inputs, outputs
        self.itemsize = plan.problem.itemsize
        self.lane, self.warp = machine.lane(), machine.warp()
        self.first = machine.cluster() * plan.warps + self.warp
        self.stride = plan.blocks * plan.warps
        self.slots_at = self.warp * plan.warp_bytes + plan.warps_at
        self.staging_at = self.slots_at + plan.slots * plan.slot_bytes
        self.full, self.rest = divmod(plan.problem.rows, plan.tile_rows)

    def tile_count(self) -> Int:
        """How many tiles the warp has."""
        return (self.first * -1 + (self.plan.tiles - 1 + self.stride)).divide(self.stride)

    def tile(self, step: Int) -> Int:
        """Number of the warp's tile number ``step``."""
        return self.first + step * self.stride

    # rows coming in --------------------------------------------------------------------------

    def barrier(self, step: Int) -> Int:
        """The barrier of a tile's slot."""
        return (self.warp * self.plan.slots + step.modulo(self.plan.slots) + 1) * 8

    def slot(self, step: Int) -> Int:
        """Where the slot of a tile starts."""
        return step.modulo(self.plan.slots) * self.plan.slot_bytes + self.slots_at

    def fetch(self, step: Int) -> None:
        """Starts the copy of a tile's rows, if there is such a tile."""
        plan, m = self.plan, self.machine
        tile, slot, barrier = self.tile(step), self.slot(step), self.barrier(step)
        with m.when(tile < self.full), m.when(self.lane.equals(0)):
            sizes = [plan.tile_rows * layout.pitch for layout in plan.inputs]
            m.barrier_expect(barrier, sum(sizes))
            at = 0
            for array, layout, size in zip(self.inputs, plan.inputs, sizes, strict=True):
                for there, here, bytes_ in layout.copies():
                    offset = m.constant(there)
                    m.copy_in(slot + (at + here), array, tile, size, offset, bytes_, barrier)
                at += layout.size
        if self.rest:
            with m.when(tile.equals(self.full)):
                at = 0
                for array, layout in zip(self.inputs, plan.inputs, strict=True):
                    self._fetch_rest(array, layout, slot + at)
                    at += layout.size
                m.reconverge()
                with m.when(self.lane.equals(0)):
                    m.barrier_expect(barrier, 0)
        m.reconverge()

    def _each(self, layout: RowLayout, count: int, body: Any) -> None:
        """Calls ``body(index, byte in the tile)`` for so many numbers of a tile, by all lanes."""
        m = self.machine
        columns = layout.pitch // self.itemsize

        def some(start: Int, carried: Sequence[Any]) -> Sequence[Any]:
            index = start + self.lane
            byte = index * self.itemsize
            if layout.gap:
                byte = byte + index.divide(columns * layout.piece_rows) * layout.gap
            with m.when(index < count):
                body(index, byte)
            return carried

        m.loop(0, count, 32, some)

    def _fetch_rest(self, array: Any, layout: RowLayout, target: Int) -> None:
        """The rows of the last tile, and zeros after them."""
        m, columns = self.machine, layout.pitch // self.itemsize
        there = self.rest * columns
        row, pitch = m.constant(self.full), layout.rows * layout.pitch

        def move(index: Int, byte: Int) -> None:
            offset = index.minimum(there - 1) * self.itemsize
            if self.itemsize == 2:
                word = m.load_global_half(array, row, pitch, offset)
                m.store_shared_half(target + byte, m.select(index < there, word, m.word(0)))
                return
            (word,) = m.load_global(array, offset, 1, row, pitch)
            m.store_shared(target + byte, [m.select(index < there, word, m.word(0))])

        self._each(layout, layout.rows * columns, move)

    def arrived(self, step: Int) -> Int:
        """Waits for a tile; where its slot starts."""
        parity = step.divide(self.plan.slots) & 1
        self.machine.barrier_wait(self.barrier(step), parity)
        return self.slot(step)

    # rows going out --------------------------------------------------------------------------

    def release(self) -> None:
        """Waits until the copies of the last results have read them."""
        m = self.machine
        with m.when(self.lane.equals(0)):
            m.wait_out(0)
        m.reconverge()

    def store(self, step: Int, product: int, write: Any) -> None:
        """Stores a tile of a result.

        Args:
            step: number of the tile.
            product: number of the result.
            write: called with a pair c of rows, see `rows`, and the address to which its offsets
                are added; stores the pair.
        """
        plan, layout = self.plan, self.plan.outputs[product]
        pairs = range(2 * plan.fragments)
        if plan.whole:
            before = sum(one.size for one in plan.outputs[:product])
            for c in pairs:
                write(c, self.staging_at + (before + c * layout.pair_pitch))
            self._send(step, product, self.staging_at + before, 0, plan.tile_rows)
            return
        for c in pairs:
            if product or c:
                self.release()
            write(c, self.staging_at)
            self._send(step, product, self.staging_at, 8 * c, 8)

    def _send(self, step: Int, product: int, source: Int, row: int, rows: int) -> None:
        """Copies staged rows, from one of the tile on, to the result."""
        plan, m, layout = self.plan, self.machine, self.plan.outputs[product]
        array, tile = self.outputs[product], self.tile(step)
        pitch = plan.tile_rows * layout.pitch
        copies = layout.copies() if plan.whole else [(row * layout.pitch, 0, rows * layout.pitch)]
        m.release_to_copies()
        m.reconverge()
        with m.when(self.lane.equals(0)):
            with m.when(tile < self.full):
                for there, here, size in copies:
                    m.copy_out(array, tile, pitch, m.constant(there), source + here, size)
            m.commit_out()
        valid = min(self.rest - row, rows)
        if valid > 0:
            with m.when(tile.equals(self.full)):
                self._send_rest(array, layout, source, row, valid)
        m.reconverge()

    def _send_rest(self, array: Any, layout: RowLayout, source: Int, row: int, valid: int) -> None:
        m, columns = self.machine, layout.pitch // self.itemsize
        tile, pitch = m.constant(self.full), layout.rows * layout.pitch

        def move(index: Int, byte: Int) -> None:
            offset: IntLike = index * self.itemsize + row * layout.pitch
            assert isinstance(offset, Int)
            if self.itemsize == 2:
                word = m.load_shared_half(source + byte)
                m.store_global_half(array, tile, pitch, offset, word)
                return
            m.store_global(array, tile, pitch, offset, m.load_shared(source + byte, 1))

        self._each(layout, valid * columns, move)

"""Gradients of chunks by blocks that stay and take one chunk after another.

The copies of the next chunk start as soon as the buffers of the last one are read, and its gates
and queries are loaded before the last gradients are stored.
"""

from collections.abc import Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int
from structlayers.gla.pallas_gpu.chunk import Pair
from structlayers.gla.pallas_gpu.gradient_merged import Merged
from structlayers.gla.pallas_gpu.layout import VALUE_TILE


class Staying(Merged):
    """The program of a block for every chunk of its own."""

    gates: list[Pair] | None = None
    queries: list[Any] | None = None

    @override
    def run(self) -> None:
        m, sizes = self.machine, self.sizes
        self.begin()
        self.fetch_first()
        count = sizes.sequences * sizes.chunks
        m.loop(m.cluster(), count, self.plan.blocks, self.take, self.load_first())

    def take(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """One chunk, whose first copies are under way and whose gates and queries are loaded."""
        m, count = self.machine, self.sizes.sequences * self.sizes.chunks
        self.index = index
        self.go_to(index)
        self.gates = list(zip(carried[:32:2], carried[1:32:2], strict=True))
        self.queries = list(carried[32:])
        weighed, rows = self.find()
        self.keep_rows(weighed, 2, rows)
        m.loop(0, weighed.slow, 1, self.halve)
        m.release_to_copies()
        m.synchronize()
        later = self.later()
        with m.when(later < count):
            self.go_to(later)
            self.fetch_first()
        self.go_to(later.minimum(count - 1))
        loaded = self.load_first()
        self.go_to(index)
        with m.when(weighed.slow.equals(0)):
            self.store(2, rows)
        m.reconverge()
        return loaded

    def go_to(self, index: Int) -> None:
        """A chunk of this block."""
        self.locate(index)
        self.steps = index.divide(self.plan.blocks) * (self.sizes.value // VALUE_TILE)

    @override
    def later(self) -> Int:
        return self.index + self.plan.blocks

    def fetch_first(self) -> None:
        """Starts the first copies of a chunk."""
        super().load_more()

    def load_first(self) -> list[Any]:
        """Gates and queries."""
        gates, queries = super().load_gates(), super().load_queries()
        return [*(x for pair in gates for x in pair), *queries]

    @override
    def load_more(self) -> None:
        pass

    @override
    def load_gates(self) -> list[Pair]:
        gates, self.gates = self.gates, None
        return super().load_gates() if gates is None else gates

    @override
    def load_queries(self) -> list[Any]:
        queries, self.queries = self.queries, None
        return super().load_queries() if queries is None else queries

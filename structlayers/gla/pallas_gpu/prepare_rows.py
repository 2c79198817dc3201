"""Rows of a chunk as `prepare` has them: two threads have two channels of 16 rows, 8 each.

So few values are in the registers of a thread that a multiprocessor runs 1024 of them. All that one
needs of the other's rows is their decay.
"""

from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.chunk import Chunk, Pair
from structlayers.gla.pallas_gpu.layout import CHUNK, MULTIPROCESSORS, Sizes

# Arrays of 64 x K in the scratch of a team, after queries, keys and scores of the image: weighted
# queries, weighted keys, keys of the diagonal, and, for scores of rows with 16 rows or more between
# them, queries of the last rows and keys of the first. All have panels of 64 rows, as the image, so
# that a thread finds its rows in all of them at the same distances.
QUERIES, KEYS, DIAGONAL, FAR, ARRAYS = range(5)
# Threads of a block, in teams, and threads of a team that share 16 rows.
THREADS, SHARING = 1024, 2


def teams(sizes: Sizes) -> int:
    """Of a block, each for a chunk at a time."""
    return THREADS // (2 * SHARING * sizes.key)


def blocks(sizes: Sizes) -> int:
    """Size of the grid: no more than run at once, so that teams stay and take chunk after chunk."""
    return min(MULTIPROCESSORS, -(-sizes.sequences * sizes.chunks // teams(sizes)))


def team_bytes(sizes: Sizes) -> int:
    """Scratch of a team: the image without its decay, and the arrays."""
    return sizes.decay_at + ARRAYS * sizes.tile_bytes


class Rows(Chunk):
    """A thread of a team of `4 K`, and its place among the rows of the chunk."""

    loads_move = False

    def __init__(
        self,
        sizes: Sizes,
        machine: Machine,
        inputs: Sequence[Any],
        *,
        from_end: bool,
        turn: Int,
        zero: Int | None = None,
    ):
        """As `Chunk`; turn: how many chunks the team has had."""
        size = team_bytes(sizes)
        super().__init__(sizes, machine, inputs, team_bytes=size, sharing=SHARING, zero=zero)
        self.scores_at = self.scratch + sizes.scores_at
        self.decays_at = self.scores_at  # until there are scores
        start = self.scratch + self.panel * (CHUNK * 128) + self.share * (self.height * 128)
        word = self.words[0] + start
        # of this thread's words in queries of the image, with units as `permuted` has them
        self.places = [word ^ (row * (128 + 16)) for row in range(self.height)]
        index = (turn * blocks(sizes) + machine.cluster()) * teams(sizes) + self.team
        self.locate(index, from_end=from_end)

    def of_half(self, half: int) -> Int:
        """Whether this thread has the first (0) or the last (1) 8 of 16 rows."""
        return (self.share & 1).equals(half)

    def other_decay(self) -> Pair:
        """That of the other 8 rows."""
        return self.decay_of(self.share ^ 1)

    def from_start(self, weights: Sequence[Pair], other: Pair) -> list[Pair]:
        """Gates of this thread's rows, the first of them times those of the 16 rows before it."""
        before = self.choose(self.of_half(1), other, (self.one, self.one))
        return [self.times(before, weights[0]), *weights[1:]]

    def array(self, index: IntLike) -> Int:
        """Where an array starts."""
        return self.scratch + (self.sizes.decay_at + index * self.sizes.tile_bytes)

    def store_row(self, row: int, array: int, values: Pair) -> None:
        """This thread's words of a row of an array."""
        offset = self.sizes.decay_at + array * self.sizes.tile_bytes
        self.store_packed(self.places[row] + offset, values)

    def product(self, left: Int, right: Int) -> list[Any]:
        """16 rows of one array times 16 rows of another."""
        m = self.machine
        lefts = self.operands(left, rows_first=True)
        rights = self.operands(right, rows_first=False)
        found = [[m.zero()] * 4, [m.zero()] * 4]
        for step in range(self.sizes.key // 16):
            offset = (step >> 2) * (CHUNK * 128)
            a = m.load_matrices(lefts[step & 3] + offset, transpose=False)
            b = m.load_matrices(rights[step & 3] + offset, transpose=False)
            for half in range(2):
                found[half] = list(m.tensor_product(found[half], a, b[2 * half : 2 * half + 2]))
        return found[0] + found[1]

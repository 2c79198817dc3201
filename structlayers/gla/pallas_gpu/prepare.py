"""What the recurrence needs of a chunk beside its values: an image, for all chunks at once."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, Machine
from structlayers.gla.pallas_gpu.chunk import Pair
from structlayers.gla.pallas_gpu.layout import ROWS, Sizes
from structlayers.gla.pallas_gpu.prepare_halving import Halving
from structlayers.gla.pallas_gpu.prepare_rows import (
    DIAGONAL,
    FAR,
    KEYS,
    QUERIES,
    SHARING,
    THREADS,
    Rows,
    blocks,
    team_bytes,
    teams,
)

# Blocks of 16 x 16 scores: row and column of the block, arrays of queries and of keys. Those above
# the diagonal are zero.
_BLOCKS = (
    *((i, i, QUERIES, DIAGONAL) for i in range(4)),
    (1, 0, QUERIES, KEYS),
    (3, 2, QUERIES, KEYS),
    (2, 0, QUERIES, FAR),
    (2, 1, QUERIES, KEYS),
    (3, 0, FAR, FAR),
    (3, 1, FAR, KEYS),
    *((i, j, QUERIES, KEYS) for i in range(4) for j in range(i + 1, 4)),
)

# From the start of a block to when its last team loads, for two teams half of what a chunk takes.
_STAGGER_NANOSECONDS = 5000


def shared_bytes(sizes: Sizes) -> int:
    """Scratch of a block."""
    return teams(sizes) * team_bytes(sizes)


class Program(Rows):
    """What a team does with a chunk."""

    def __init__(
        self,
        sizes: Sizes,
        machine: Machine,
        inputs: Sequence[Any],
        image: Any,
        *,
        from_end: bool,
        turn: Int,
    ):
        # 0, but unknown to compilers: or they find all places before the first turn, and spill them
        zero = turn >> 24
        super().__init__(sizes, machine, inputs, from_end=from_end, turn=turn, zero=zero)
        self.inputs, self.image, self.from_end, self.turn = inputs, image, from_end, turn
        warps = self.threads // 32
        self.rounds = [_BLOCKS[i : i + warps] for i in range(0, len(_BLOCKS), warps)]

    def run(self) -> None:
        """The chunk."""
        m = self.machine
        slow = self.fill()
        self.copy_rows()
        for taken in self.rounds:
            self.make_scores(taken)
        m.loop(0, slow, 1, self.halve)
        for taken in self.rounds:
            self.copy_scores(taken)

    def fill(self) -> Int:
        """Makes the rows of the image and the arrays, for all of the team; 0 if none is halved."""
        m, last, first = self.machine, self.part.equals(3), self.part.equals(0)
        gates, queries, keys = self.load_gates(), self.load_queries(), self.load_keys()
        # the scratch of the chunk before is read
        m.wait_out(0)
        self.synchronize()
        weights, decay = self.decay(gates)
        self.synchronize()
        decays = map(self.decay_of, range(4 * SHARING))
        known = self.know([self.times(*halves) for halves in itertools.batched(decays, SHARING)])
        self.store_decay(known.whole)
        other = self.other_decay()
        weak = self.may_be_weak(weights, self.times(decay, other))
        from_start = self.from_start(weights, other)
        for row, values in enumerate(self.weighted(queries, self.prefixes(from_start))):
            self.store_row(row, QUERIES, values)
            self.store_packed(self.places[row], self.times(values, known.before))
            with m.when(last):
                self.store_row(row, FAR, self.times(values, known.decays[2]))
        for row, values in enumerate(self.weighted(keys, self.inverses(from_start))):
            self.store_row(row, DIAGONAL, values)
        after = self.choose(self.of_half(0), other, (self.one, self.one))
        weighted = self.weighted(keys, self.suffixes([*weights, after])[:-1])
        for row, values in reversed([*enumerate(weighted)]):
            self.store_row(row, KEYS, values)
            place = self.places[row] + self.sizes.tile_bytes
            self.store_packed(place, self.times(values, known.after))
            with m.when(first):
                self.store_row(row, FAR, self.times(values, known.decays[1]))
        m.release_to_copies()
        return m.synchronize_any(weak, self.team, self.threads)

    def halve(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Scores of rows that are halved."""
        halving = Halving(
            self.sizes,
            self.machine,
            self.inputs,
            from_end=self.from_end,
            turn=self.turn + index,
            zero=index,
        )
        halving.run()
        return carried

    # the image -------------------------------------------------------------------------------

    def store_decay(self, whole: Pair) -> None:
        """That of the chunk to the image."""
        m, sizes = self.machine, self.sizes
        with m.when(self.share.equals(0)):
            offset, words = self.pair * 8 + sizes.decay_at, [m.bits(x) for x in whole]
            m.store_global(self.image, self.block, sizes.image_bytes, offset, words)

    def copy_rows(self) -> None:
        """Starts the copy of queries and keys to the image."""
        m, sizes = self.machine, self.sizes
        with m.when(self.thread.equals(0)):
            zero, size = m.constant(0), sizes.scores_at
            m.copy_out(self.image, self.block, sizes.image_bytes, zero, self.scratch, size)
            m.commit_out()
        m.reconverge()

    def copy_scores(self, taken: Sequence[tuple[int, ...]]) -> None:
        """The block of this warp to the image."""
        m, sizes = self.machine, self.sizes
        place = self.block_place(0, *self.place_of(taken))
        with self.taking(taken):
            words = m.load_shared(place + self.scores_at, 4)
            offset = place + sizes.scores_at
            m.store_global(self.image, self.block, sizes.image_bytes, offset, words)

    # scores ----------------------------------------------------------------------------------

    def among(self, taken: Sequence[tuple[int, ...]], field: int) -> Int:
        """A field of the block of this warp."""
        return self.listed([block[field] for block in taken], self.warp)

    def place_of(self, taken: Sequence[tuple[int, ...]]) -> tuple[Int, Int]:
        """Row and column of the block of this warp."""
        return self.among(taken, 0), self.among(taken, 1)

    def taking(self, taken: Sequence[tuple[int, ...]]) -> contextlib.AbstractContextManager[None]:
        """What warps without a block skip."""
        if len(taken) * 32 == self.threads:
            return contextlib.nullcontext()
        return self.machine.when(self.warp < len(taken))

    def make_scores(self, taken: Sequence[tuple[int, ...]]) -> None:
        """One block of 16 x 16 for each warp, zero above the diagonal."""
        m, (row, column) = self.machine, self.place_of(taken)
        with self.taking(taken):
            with m.when(row >= column):
                left, right = (self.array(self.among(taken, field)) for field in (2, 3))
                found = self.product(left + row * (ROWS * 128), right + column * (ROWS * 128))
                below = (row - column) * ROWS
                found = self.where(lambda row, column: column < below + row + 1, found)
                self.store_block(self.scores_at, row, column, found)
            with m.when(row < column):
                self.store_block(self.scores_at, row, column, [m.zero()] * 8)
        m.reconverge()


def program(sizes: Sizes, *, from_end: bool) -> Any:
    """The program for `launch` or `simulate`: (q, k, log gate) to images.

    Args:
        sizes: of the call.
        from_end: whether the last chunks come first; the recurrence should start with the others.
    """

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        m, (image,) = machine, outputs
        count, stride = sizes.sequences * sizes.chunks, blocks(sizes) * teams(sizes)
        first = m.cluster() * teams(sizes) + m.thread().divide(THREADS // teams(sizes))
        if count > stride:
            # some teams load while others compute; in step, memory would rest half of the time
            phases = max(teams(sizes), 2)
            m.sleep(first.modulo(phases) * (_STAGGER_NANOSECONDS // phases))

        def take(turn: Int, carried: Sequence[Any]) -> Sequence[Any]:
            Program(sizes, machine, inputs, image, from_end=from_end, turn=turn).run()
            return carried

        m.loop(0, (m.constant(count + stride - 1) - first).divide(stride), 1, take)
        m.wait_out(0)

    return run

"""The products that gradients of a chunk are made of, and their way from warps to threads.

Results of products change from the registers of a warp, 16 rows by 64 channels, to those of the
threads, 16 rows by two channels, through buffers of 64 x K float32 in shared memory.
"""

import functools
import itertools
from collections.abc import Generator, Sequence
from typing import Any, override

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.chunk import (
    DIAGONAL,
    FAR_KEYS,
    FAR_QUERIES,
    KEYS,
    QUERIES,
    Chunk,
    Pair,
    each,
)
from structlayers.gla.pallas_gpu.gradient_layout import ROWS_BYTES, STATE_SUMS, Plan
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    MULTIPROCESSORS,
    ROW_PITCH,
    ROWS,
    VALUE_TILE,
    lane_row,
    permuted,
)

_PANEL = CHUNK * 128
# Tiles that meet the blocks of dP in the row of a warp's part, and in its column.
_KEYS_OF = (
    (DIAGONAL, KEYS, FAR_KEYS, FAR_KEYS),
    (KEYS + 1, DIAGONAL + 1, KEYS + 1, KEYS + 1),
    (KEYS + 2, KEYS + 2, DIAGONAL + 2, KEYS + 2),
    (KEYS + 3, KEYS + 3, KEYS + 3, DIAGONAL + 3),
)
_QUERIES_OF = (
    (QUERIES,) * 4,
    (QUERIES + 1,) * 4,
    (QUERIES + 2,) * 4,
    (FAR_QUERIES, FAR_QUERIES, QUERIES + 3, QUERIES + 3),
)
# 2**-12: on the diagonal a gate's gradient is a difference of float32 sums without this factor.
_LEAST_GATE = 0x39800000


class Products(Chunk):
    """What the block's program does with tensor cores."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any]):
        super().__init__(plan.sizes, machine, inputs[:3])
        self.locate(machine.cluster())
        self.plan = plan
        self.values, self.cotangents, self.states, self.pulled = inputs[3:]
        # of a warp: its 16 rows, and its 64 channels
        self.rows, self.slab = self.warp & 3, self.warp >> 2
        self.slabs = plan.sizes.key // 64

    # values and states -----------------------------------------------------------------------

    def fetch(self, step: Int) -> None:
        """Starts the copies of 64 values, their cotangents, and both states, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage = step.modulo(plan.stages)
        barrier, start = stage * 8 + plan.barriers_at, stage * plan.stage_bytes + plan.stages_at
        tiles, units = sizes.value // VALUE_TILE, VALUE_TILE // 8
        unit, first = m.thread() & (units - 1), m.thread() >> (units.bit_length() - 1)
        with m.when(step < tiles):
            with m.when(m.thread().equals(0)):
                m.barrier_expect(barrier, 2 * plan.state_bytes)
                for i, states in enumerate((self.states, self.pulled)):
                    at, size = start + (2 * ROWS_BYTES + i * plan.state_bytes), plan.state_bytes
                    row, zero = self.block * tiles + step, m.constant(0)
                    m.copy_in(at, states, row, size, zero, size, barrier)
            for row in range(0, CHUNK, plan.threads // units):
                place, _ = self.place(first + row)
                target, offset = (
                    start + (first + row) * ROW_PITCH + unit * 16,
                    step * 128 + unit * 16,
                )
                for i, (array, heads, head) in enumerate(
                    (
                        (self.values, sizes.groups, self.group),
                        (self.cotangents, sizes.heads, self.head),
                    )
                ):
                    source = place * (heads // sizes.parts) + head.divide(sizes.parts)
                    m.load_ahead(target + i * ROWS_BYTES, array, source, 2 * sizes.value, offset)
        m.reconverge()
        m.commit_loads()

    @override
    def load_more(self) -> None:
        for stage in range(self.plan.stages):
            self.fetch(self.machine.constant(stage))

    def prefetch_later(self) -> None:
        """Brings what a later block begins with into the L2, while this one does not load."""
        m, sizes = self.machine, self.sizes
        index = self.later()
        with m.when(index < sizes.sequences * sizes.chunks):
            here = self.chunk, self.block, self.head, self.first, self.group
            self.locate(index)
            self.prefetch()
            with m.when(m.thread().equals(0)):
                self.prefetch_states()
            self.chunk, self.block, self.head, self.first, self.group = here
        m.reconverge()

    def later(self) -> Int:
        """The chunk that is prefetched."""
        return self.machine.cluster() + MULTIPROCESSORS

    def prefetch_states(self) -> None:
        """Brings the first 64 values of both states into the L2."""
        row, size = self.block * (self.sizes.value // VALUE_TILE), self.plan.state_bytes
        for states in (self.states, self.pulled):
            self.machine.prefetch_bulk(states, row, size, size)

    def prefetch(self) -> None:
        """Brings queries, keys and gates of the chunk into the L2, a line of each by a thread."""
        m, key = self.machine, self.sizes.key
        shift = (key // 32).bit_length() - 1
        row, line = self.place(self.thread >> shift)[0], self.thread & (key // 32 - 1)
        m.prefetch(self.gate, row * self.sizes.groups + self.group, 4 * key, line * 128)
        thread = self.thread & (key - 1)
        row, line = self.place(thread >> (shift - 1))[0], thread & (key // 64 - 1)
        with m.when(self.thread < key):
            m.prefetch(self.q, row * self.sizes.heads + self.head, 2 * key, line * 128)
        with m.when(self.thread >= key):
            m.prefetch(self.k, row * self.sizes.groups + self.group, 2 * key, line * 128)
        m.reconverge()

    def read_values(self, tiles: int) -> tuple[list[Any], list[Any]]:
        """Gradients of queries and keys in the image, in registers, and of scores, as a tile."""
        m, plan = self.machine, self.plan
        zero, count, blocks = m.zero(), 32, 4 // self.slabs

        def step(index: Int, carried: Sequence[Any]) -> list[Any]:
            queries, keys = list(carried[:count]), list(carried[count : 2 * count])
            scores = list(carried[2 * count : 2 * count + 8 * blocks])
            sums = carried[2 * count + 8 * blocks :]
            stage = index.modulo(plan.stages)
            m.barrier_wait(stage * 8 + plan.barriers_at, index.divide(plan.stages) & 1)
            m.wait_loads(plan.stages - 1)
            m.synchronize()
            start = stage * plan.stage_bytes + plan.stages_at
            values = self.load_rows(start)
            cotangents = self.load_rows(start + ROWS_BYTES)
            states = start + 2 * ROWS_BYTES
            queries = self.read_states(queries, cotangents, states)
            keys = self.read_states(keys, values, states + plan.state_bytes)
            for block in range(blocks):
                at = slice(8 * block, 8 * block + 8)
                column = self.slab * blocks + block
                scores[at] = self.read_scores(scores[at], cotangents, start, column)
            sums = self.multiply_states(sums, states)
            m.synchronize()
            self.fetch(index + plan.stages)
            return [*queries, *keys, *scores, *sums]

        carried = [zero] * (2 * count + 8 * blocks + 8)
        carried = list(m.loop(0, tiles, 1, step, carried))
        self.store_scores(carried[2 * count : 2 * count + 8 * blocks])
        self.store_state_sums(carried[-8:])
        return carried[:count], carried[count : 2 * count]

    def store_scores(self, scores: Sequence[Any]) -> None:
        """Gradients of scores in this warp's rows and columns of its slab, as a tile."""
        blocks = 4 // self.slabs
        for block in range(blocks):
            column = self.slab * blocks + block
            below = (self.rows - column) * ROWS
            found = self.where(
                lambda row, col, below=below: col < below + row + 1,
                scores[8 * block : 8 * block + 8],
            )
            self.store_block(self.plan.scores_at, self.rows, column, found)

    def load_rows(self, start: Int) -> list[Any]:
        """Left operands: this warp's rows by 64 values."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        at = start + (self.rows * ROWS + row) * ROW_PITCH + unit * 16
        return [m.load_matrices(at + 32 * i, transpose=False) for i in range(VALUE_TILE // 16)]

    def read_states(self, found: list[Any], left: Sequence[Any], start: Int) -> list[Any]:
        """Adds rows by 64 values times those values of a state, of this warp's channels."""
        places = self.operands(start + self.slab * _PANEL, rows_first=True)
        for i, words in enumerate(left):
            found = self.add_product(found, words, [place + i * ROWS * 128 for place in places])
        return found

    def add_product(self, found: Sequence[Any], left: Any, places: Sequence[Int]) -> list[Any]:
        """Adds a 16 x 16 block times 16 rows of this warp's channels."""
        m, found = self.machine, list(found)
        for i, place in enumerate(places):
            right = m.load_matrices(place, transpose=True)
            for half in range(2):
                at = slice(8 * i + 4 * half, 8 * i + 4 * half + 4)
                found[at] = m.tensor_product(found[at], left, right[2 * half : 2 * half + 2])
        return found

    def read_scores(
        self, found: Sequence[Any], left: Sequence[Any], start: Int, column: Int
    ) -> list[Any]:
        """Adds `dO V^T` of 64 values to a block of 16 x 16."""
        m, found = self.machine, list(found)
        row, unit = lane_row(self.lane, rows_first=False)
        at = start + (column * ROWS + row) * ROW_PITCH + unit * 16
        for i, words in enumerate(left):
            right = m.load_matrices(at + 32 * i, transpose=False)
            for half in range(2):
                at_ = slice(4 * half, 4 * half + 4)
                found[at_] = m.tensor_product(found[at_], words, right[2 * half : 2 * half + 2])
        return found

    def state_group(self) -> tuple[Int, Int]:
        """Of the products of both states this thread's values modulo 16, and 8 channels."""
        units, thread = self.sizes.key // 8, self.machine.thread()
        return thread >> (units.bit_length() - 1), thread & (units - 1)

    def multiply_states(self, sums: Sequence[Any], start: Int) -> list[Any]:
        """Adds the products of both states, over 64 values."""
        m, sums = self.machine, list(sums)
        row, unit = self.state_group()
        at = start + row * 128 + permuted(unit & 7, row) + (unit >> 3) * _PANEL
        for offset in range(0, VALUE_TILE * 128, 16 * 128):
            pairs = zip(
                m.load_shared(at + offset, 4),
                m.load_shared(at + (offset + self.plan.state_bytes), 4),
                strict=True,
            )
            for i, words in enumerate(pairs):
                both = (m.unpack(word) for word in words)
                sums[2 * i : 2 * i + 2] = each(m.fma, *both, sums[2 * i : 2 * i + 2])
        return sums

    def store_state_sums(self, sums: Sequence[Any]) -> None:
        """The sums of `multiply_states`."""
        m, (group, unit) = self.machine, self.state_group()
        at = (group + STATE_SUMS) * (4 * self.sizes.key) + unit * 32 + self.plan.sums_at
        for i in (0, 4):
            m.store_shared(at + 4 * i, [m.bits(x) for x in sums[i : i + 4]])

    # products within the chunk ---------------------------------------------------------------

    def tile_rows(self, tile: Int) -> list[Int]:
        """Right operands of this warp's channels from a tile of 16 rows."""
        start = self.slab * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at
        return self.operands(start, rows_first=True)

    def scores_of(self, row: IntLike, column: IntLike, *, transpose: bool = False) -> list[Any]:
        """A left operand from the gradients of scores."""
        return self.block_of(self.plan.scores_at, row, column, transpose=transpose)

    def block_of(
        self, start: int, row: IntLike, column: IntLike, *, transpose: bool = False
    ) -> list[Any]:
        """A left operand from a tile of 16 x 16 blocks."""
        at = self.block_place(start, row, column, rows_first=not transpose)
        return self.machine.load_matrices(at, transpose=transpose)

    # rows that are halved --------------------------------------------------------------------

    @override
    def may_be_weak(self, weights: Sequence[Pair], decay: Pair) -> Int:
        least = functools.reduce(Int.minimum, map(self.integer, itertools.chain(*weights)))
        return super().may_be_weak(weights, decay) | (least < _LEAST_GATE)

    @override
    def weak_rows(self, weights: Sequence[Pair]) -> Generator[Int]:
        small = self.below(weights[0], _LEAST_GATE)
        for gate, weak in zip(weights, super().weak_rows(weights), strict=True):
            small = small | self.below(gate, _LEAST_GATE)
            yield weak | small

    def part_scores(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Takes rows that are halved out of the gradients of scores on the diagonal."""
        del index
        m = self.machine
        self.count_kept([each(m.exp2, gate) for gate in self.load_gates()])
        m.synchronize()
        kept = self.kept_rows(self.rows)
        with m.when(self.slab.equals(0)):
            words, none = self.scores_of(self.rows, self.rows), m.word(0)
            halved = [(self.lane >> 2) + 8 * (i & 1) >= kept for i in range(len(words))]
            pairs = list(zip(halved, words, strict=True))
            for start, row, chosen in (
                (self.plan.scores_at, self.rows, [m.select(is_, none, x) for is_, x in pairs]),
                (self.plan.halved_at, 0, [m.select(is_, x, none) for is_, x in pairs]),
            ):
                place = self.block_place(start, row, self.rows)
                m.store_matrices(place, chosen, transpose=False)
        m.reconverge()
        m.synchronize()
        return carried

    def only(self, condition: Int, words: Sequence[Any]) -> list[Any]:
        """Words, or zeros."""
        m = self.machine
        return [m.select(condition, word, m.word(0)) for word in words]

    def zeros(self) -> list[Any]:
        """16 rows of this warp's channels."""
        return [self.machine.zero()] * 32

    def within_queries(self) -> None:
        """Gradients of weighted queries from scores: to buffer 2, of the far ones apart."""
        m = self.machine
        found = self.zeros()
        for part in range(4):
            block = self.scores_of(self.rows, m.constant(part))
            if part < 2:
                block = self.only(self.rows < 3, block)
            places = self.tile_rows(self.listed(_KEYS_OF[part], self.rows))
            found = self.add_product(found, block, places)
        self.to_buffer(2, found)
        with m.when(self.rows.equals(3)):
            found = self.zeros()
            for part, tile in enumerate((FAR_KEYS, KEYS + 1)):
                block = self.scores_of(m.constant(3), m.constant(part))
                found = self.add_product(found, block, self.tile_rows(m.constant(tile)))
            self.to_far(found)

    def within_keys(self) -> None:
        """The same of weighted keys: to buffer 2, on the diagonal to 3, of the far ones apart."""
        m = self.machine
        found = self.zeros()
        for part in (1, 2, 3):
            block = self.scores_of(m.constant(part), self.rows, transpose=True)
            least = 1 if part > 1 else 0  # the far keys are those of the first rows
            near = (self.rows >= least) & (self.rows < part)
            places = self.tile_rows(self.listed(_QUERIES_OF[part], self.rows))
            found = self.add_product(found, self.only(near, block), places)
        self.to_buffer(2, found)
        block = self.scores_of(self.rows, self.rows, transpose=True)
        places = self.tile_rows(self.rows + QUERIES)
        self.to_buffer(3, self.add_product(self.zeros(), block, places))
        with m.when(self.rows.equals(0)):
            found = self.zeros()
            for part, tile in ((2, QUERIES + 2), (3, FAR_QUERIES)):
                block = self.scores_of(m.constant(part), m.constant(0), transpose=True)
                found = self.add_product(found, block, self.tile_rows(m.constant(tile)))
            self.to_far(found)

    # from warps to threads -------------------------------------------------------------------

    def to_buffer(self, buffer: int, found: Sequence[Any]) -> None:
        """This warp's rows and channels of a buffer."""
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        self.to_rows(self.rows * (ROWS * 4 * self.sizes.key) + start, found)

    def to_far(self, found: Sequence[Any]) -> None:
        """The same of the 16 rows of a far tile."""
        self.to_rows(self.machine.constant(self.plan.far_at), found)

    def to_rows(self, start: Int, found: Sequence[Any]) -> None:
        """Rows of K float32, in units of 8 that are permuted as those of tiles are."""
        m, pitch = self.machine, 4 * self.sizes.key
        row = self.lane >> 2
        at = start + row * pitch + (self.lane & 3) * 8 + self.slab * 256
        for i in range(8):
            place = at + (permuted(i, row) << 1)
            for lower in range(2):
                words = [m.bits(x) for x in found[4 * i + 2 * lower : 4 * i + 2 * lower + 2]]
                m.store_shared(place + 8 * lower * pitch, words)

    def row_places(self, start: IntLike) -> list[Int]:
        """Where this thread's channels are in 16 rows."""
        at = self.panel * 256 + start
        places = [(word << 1) + at for word in self.words]
        return [places[row & 7] + row * 4 * self.sizes.key for row in range(ROWS)]

    def buffer(self, buffer: int) -> list[Int]:
        """Where this thread's channels of its rows are in a buffer."""
        start = self.plan.stages_at + buffer * self.plan.buffer_bytes
        return self.row_places(self.part * (ROWS * 4 * self.sizes.key) + start)

    def read(self, place: Int) -> Pair:
        """Two float32."""
        low, high = self.machine.load_shared(place, 2)
        return self.machine.float(low), self.machine.float(high)

    def write(self, place: Int, values: Pair) -> None:
        """The reverse."""
        self.machine.store_shared(place, [self.machine.bits(x) for x in values])

    def store_sums(self, index: IntLike, values: Pair) -> None:
        """This thread's channels of the sums over rows."""
        m = self.machine
        index = index if isinstance(index, Int) else m.constant(index)
        self.store_pair(index * (4 * self.sizes.key) + self.plan.sums_at, values)

    def load_sums(self, index: int) -> Pair:
        """The reverse."""
        return self.load_pair(index * 4 * self.sizes.key + self.plan.sums_at)

    def far(self, part: int, place: Int) -> Pair:
        """A gradient of the far tile in the threads of a part, zero in others."""
        return self.choose(self.part.equals(part), self.read(place), self.nothing())

"""The products that gradients of a chunk are made of, and their way from warps to threads.

Results of products change from the registers of a warp, 16 rows by 64 channels, to those of the
threads, 16 rows by two channels, through buffers of 64 x 64 float32 in shared memory.
"""

import copy
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
from structlayers.gla.pallas_gpu.gradient_layout import (
    BARRIERS_AT,
    BUFFER_BYTES,
    CHANNELS,
    FAR_AT,
    HALVED_AT,
    PANEL_BYTES,
    SCORES_AT,
    STAGE_BYTES,
    STAGES,
    STAGES_AT,
    STATE_SUMS,
    SUMS_AT,
    THREADS,
    Plan,
)
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    MULTIPROCESSORS,
    ROWS,
    VALUE_TILE,
    permuted,
)

# That run at a time: two on a multiprocessor.
BLOCKS = 2 * MULTIPROCESSORS
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
        self.scratch, self.tiles_at = machine.constant(FAR_AT), machine.constant(0)
        self.rows = self.warp  # of 16

    # values and states -----------------------------------------------------------------------

    def fetch(self, step: Int) -> None:
        """Starts the copies of 64 values, their cotangents, and both states, if there are any."""
        plan, m, sizes = self.plan, self.machine, self.sizes
        stage, units = step.modulo(STAGES), VALUE_TILE // 8
        barrier, start = stage * 8 + BARRIERS_AT, stage * STAGE_BYTES + STAGES_AT
        unit, first = m.thread().modulo(units), m.thread().divide(units)
        with m.when(step < plan.steps):
            with m.when(m.thread().equals(0)):
                m.barrier_expect(barrier, 2 * PANEL_BYTES)
                row, size, zero = self.state_row(step), PANEL_BYTES, m.constant(0)
                for i, states in enumerate((self.states, self.pulled), 2):
                    m.copy_in(start + i * size, states, row, size, zero, size, barrier)
            at = first * 128 + permuted(unit, first) + start
            for row in range(0, CHUNK, THREADS // units):
                place, offset = self.place(first + row)[0], step * (2 * VALUE_TILE) + unit * 16
                for i, (array, heads, head) in enumerate(
                    (
                        (self.values, sizes.groups, self.group),
                        (self.cotangents, sizes.heads, self.head),
                    )
                ):
                    source = place * (heads // sizes.parts) + head.divide(sizes.parts)
                    target = at + (128 * row + i * PANEL_BYTES)
                    m.load_ahead(target, array, source, 2 * sizes.value, offset)
        m.reconverge()
        m.commit_loads()

    @override
    def load_more(self) -> None:
        for stage in range(STAGES):
            self.fetch(self.machine.constant(stage))

    def state_row(self, step: Int) -> Int:
        """Where states of a step are, in their arrays, in units of their bytes."""
        panels = self.plan.panels
        tile = self.sequence.divide(panels) * self.sizes.chunks + self.chunk
        return (tile * self.plan.steps + step) * panels + self.sequence.modulo(panels)

    def prefetch_later(self) -> None:
        """Brings what a later block begins with into the L2, while this one does not load."""
        m, index = self.machine, self.machine.cluster() + BLOCKS
        with m.when(index < self.sizes.sequences * self.sizes.chunks):
            later = copy.copy(self)
            later.locate(index)
            later.prefetch()
            with m.when(m.thread().equals(0)):
                for states in (self.states, self.pulled):
                    row = later.state_row(m.constant(0))
                    m.prefetch_bulk(states, row, PANEL_BYTES, PANEL_BYTES)
        m.reconverge()

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

    def read_values(self) -> tuple[list[Any], list[Any]]:
        """Gradients of queries and keys in the image, in registers, and of scores, as a tile."""
        m, count = self.machine, CHUNK // 2

        def step(index: Int, carried: Sequence[Any]) -> list[Any]:
            stage = index.modulo(STAGES)
            m.barrier_wait(stage * 8 + BARRIERS_AT, index.divide(STAGES) & 1)
            m.wait_loads(STAGES - 1)
            m.release_to_copies()
            m.synchronize()
            start = stage * STAGE_BYTES + STAGES_AT
            found = self.start_products(carried[: 3 * count], start)
            sums = self.multiply_states(carried[3 * count :], start + 2 * PANEL_BYTES)
            found = m.warpgroup_wait(0, found)
            m.synchronize()
            self.fetch(index + STAGES)
            return [*found, *sums]

        carried = [m.zero()] * (3 * count + 8)
        carried = list(m.loop(0, self.plan.steps, 1, step, carried))
        for block in range(CHUNK // ROWS):
            found = carried[2 * count + 8 * block : 2 * count + 8 * block + 8]
            below = (self.rows - block) * ROWS
            found = self.where(lambda row, col, below=below: col < below + row + 1, found)
            self.store_block(SCORES_AT, self.rows, block, found)
        self.store_state_sums(carried[-8:])
        return carried[:count], carried[count : 2 * count]

    def start_products(self, found: Sequence[Any], start: Int) -> list[Any]:
        """Starts the products of 64 values: of queries, of keys, and of scores, 32 float32 each."""
        m, count, size = self.machine, CHUNK // 2, PANEL_BYTES
        lefts = [word for tile in range(2) for word in self.load_rows(start + tile * size)]
        made = m.warpgroup_begin([*found, *lefts])
        queries, keys, scores = (made[i : i + count] for i in range(0, 3 * count, count))
        values, cotangents = (made[i : i + 16] for i in (3 * count, 3 * count + 16))
        for i in range(0, 16, 4):
            states, words = start + (2 * size + i * 512), cotangents[i : i + 4]
            scores = m.warpgroup_product(scores, words, start + 8 * i, transpose=False, panel=0)
            queries = m.warpgroup_product(queries, words, states, transpose=True, panel=0)
            words, states = values[i : i + 4], states + size
            keys = m.warpgroup_product(keys, words, states, transpose=True, panel=0)
        m.warpgroup_commit()
        return [*queries, *keys, *scores]

    def load_rows(self, start: Int) -> list[Any]:
        """Left operands: this warp's rows by 64 values."""
        places = self.operands(self.rows * (ROWS * 128) + start, rows_first=True)
        return [
            word for place in places for word in self.machine.load_matrices(place, transpose=False)
        ]

    def add_product(self, found: Sequence[Any], left: Any, places: Sequence[Int]) -> list[Any]:
        """Adds a 16 x 16 block times 16 rows."""
        m, found = self.machine, list(found)
        for i, place in enumerate(places):
            right = m.load_matrices(place, transpose=True)
            for half in range(2):
                at = slice(8 * i + 4 * half, 8 * i + 4 * half + 4)
                found[at] = m.tensor_product(found[at], left, right[2 * half : 2 * half + 2])
        return found

    def state_group(self) -> tuple[Int, Int]:
        """Of the products of both states this thread's values modulo 16, and 8 channels."""
        return self.thread.divide(CHANNELS // 8), self.thread.modulo(CHANNELS // 8)

    def multiply_states(self, sums: Sequence[Any], start: Int) -> list[Any]:
        """Adds the products of both states, over 64 values."""
        m, sums = self.machine, list(sums)
        row, unit = self.state_group()
        at = start + row * 128 + permuted(unit, row)
        for offset in range(0, PANEL_BYTES, 16 * 128):
            pairs = zip(
                m.load_shared(at + offset, 4),
                m.load_shared(at + (offset + PANEL_BYTES), 4),
                strict=True,
            )
            for i, words in enumerate(pairs):
                both = (m.unpack(word) for word in words)
                sums[2 * i : 2 * i + 2] = each(m.fma, *both, sums[2 * i : 2 * i + 2])
        return sums

    def store_state_sums(self, sums: Sequence[Any]) -> None:
        """The sums of `multiply_states`."""
        m, (group, unit) = self.machine, self.state_group()
        at = (group + STATE_SUMS) * (4 * CHANNELS) + unit * 32 + SUMS_AT
        for i in (0, 4):
            m.store_shared(at + 4 * i, [m.bits(x) for x in sums[i : i + 4]])

    # products within the chunk ---------------------------------------------------------------

    def tile_rows(self, tile: Int) -> list[Int]:
        """Right operands from a tile of 16 rows."""
        return self.operands(tile * self.tile_bytes, rows_first=True)

    def scores_of(self, row: IntLike, column: IntLike, *, transpose: bool = False) -> list[Any]:
        """A left operand from the gradients of scores."""
        return self.block_of(SCORES_AT, row, column, transpose=transpose)

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
        words, none = self.scores_of(self.rows, self.rows), m.word(0)
        halved = [(self.lane >> 2) + 8 * (i & 1) >= kept for i in range(len(words))]
        pairs = list(zip(halved, words, strict=True))
        for start, row, chosen in (
            (SCORES_AT, self.rows, [m.select(weak, none, word) for weak, word in pairs]),
            (HALVED_AT, 0, [m.select(weak, word, none) for weak, word in pairs]),
        ):
            m.store_matrices(self.block_place(start, row, self.rows), chosen, transpose=False)
        m.synchronize()
        return carried

    def only(self, condition: Int, words: Sequence[Any]) -> list[Any]:
        """Words, or zeros."""
        m = self.machine
        return [m.select(condition, word, m.word(0)) for word in words]

    def zeros(self) -> list[Any]:
        """16 rows of 64 channels."""
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
        """This warp's rows of a buffer."""
        self.to_rows(self.rows * (ROWS * 4 * CHANNELS) + buffer_at(buffer), found)

    def to_far(self, found: Sequence[Any]) -> None:
        """The same of the 16 rows of a far tile."""
        self.to_rows(self.machine.constant(FAR_AT), found)

    def to_rows(self, start: Int, found: Sequence[Any]) -> None:
        """Rows of float32, in units of 8 that are permuted as those of tiles are."""
        m, pitch = self.machine, 4 * CHANNELS
        row = self.lane >> 2
        at = start + row * pitch + (self.lane & 3) * 8
        for i in range(8):
            place = at + (permuted(i, row) << 1)
            for lower in range(2):
                words = [m.bits(x) for x in found[4 * i + 2 * lower : 4 * i + 2 * lower + 2]]
                m.store_shared(place + 8 * lower * pitch, words)

    def row_places(self, start: IntLike) -> list[Int]:
        """Where this thread's channels are in 16 rows."""
        places = [(word << 1) + start for word in self.words]
        return [places[row & 7] + row * 4 * CHANNELS for row in range(ROWS)]

    def buffer(self, buffer: int) -> list[Int]:
        """Where this thread's channels of its rows are in a buffer."""
        return self.row_places(self.part * (ROWS * 4 * CHANNELS) + buffer_at(buffer))

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
        self.store_pair(index * (4 * CHANNELS) + SUMS_AT, values)

    def load_sums(self, index: int) -> Pair:
        """The reverse."""
        return self.load_pair(index * 4 * CHANNELS + SUMS_AT)

    def far(self, part: int, place: Int) -> Pair:
        """A gradient of the far tile in the threads of a part, zero in others."""
        return self.choose(self.part.equals(part), self.read(place), self.nothing())


def buffer_at(buffer: int) -> int:
    """Where a buffer starts."""
    return STAGES_AT + buffer * BUFFER_BYTES

"""Gradients of queries, keys and gates of a chunk, for all chunks at once.

A block of threads takes one chunk of one query head, with the states before it, S, and the
gradients of the states after it, dS', in bfloat16, from the recurrences in both directions:

    dP = tril(dO V^T)    d(Q in the image) = dO S^T    d(K in the image) = V dS'^T

and from these the gradients of the tiles whose products the scores are. A gate takes its gradient
from the weights it is in: with w a weight that holds it and x the weighted value, ``x dx`` in
float32, summed over rows and intervals. Nothing is subtracted but within the 16 rows of a block on
the diagonal, where both terms have the same operands, rounded to bfloat16 in the same way.

Results of products change from the registers of a warp, 16 rows by 64 channels, to those of the
threads, 16 rows by two channels, through buffers of 64 x K float32 in shared memory.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.chunk import (
    DIAGONAL,
    FAR_KEYS,
    FAR_QUERIES,
    HALVES,
    KEYS,
    QUERIES,
    TILES,
    Chunk,
    Pair,
    Weighed,
    across,
    each,
)
from structlayers.gla.pallas_gpu.layout import (
    CHUNK,
    ROWS,
    SCORE_BYTES,
    VALUE_TILE,
    Sizes,
    lane_row,
    permuted,
)

_SHARED_LIMIT = 232_448 // 1024 * 1024
_PITCH = VALUE_TILE * 2 + 16
_ROWS_BYTES = CHUNK * _PITCH
_PANEL = CHUNK * 128
# Blocks that run at a time.
_AT_A_TIME = 132
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
# Sums over rows, K float32 each: of queries and keys that reach over other parts, for each part; of
# what the far tiles span; and of the products of both states, for each of 16 groups of values.
_QUERY_SUMS, _KEY_SUMS, _OVER_SECOND, _OVER_THIRD, _STATE_SUMS, _SUMS = 0, 4, 8, 9, 10, 26


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where things lie in shared memory.

    Attributes:
        sizes: of the call.
        stages: tiles of values on their way.
    """

    sizes: Sizes
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return 2 * self.sizes.key

    @property
    def state_bytes(self) -> int:
        """64 values of a state in bfloat16."""
        return VALUE_TILE * self.sizes.key * 2

    @property
    def stage_bytes(self) -> int:
        """Values and cotangents of 64 columns, and both states."""
        return 2 * _ROWS_BYTES + 2 * self.state_bytes

    @property
    def buffer_bytes(self) -> int:
        """64 x K float32."""
        return CHUNK * self.sizes.key * 4

    @property
    def scores_at(self) -> int:
        """Gradients of scores, after decays and tiles."""
        return 16 * self.sizes.key + TILES * ROWS * self.sizes.key * 2

    @property
    def sums_at(self) -> int:
        """Sums over rows."""
        return self.scores_at + SCORE_BYTES

    @property
    def far_at(self) -> int:
        """Gradients of the far tiles."""
        return self.sums_at + _SUMS * 4 * self.sizes.key

    @property
    def stages_at(self) -> int:
        """Stages, and later the buffers."""
        return self.far_at + self.buffer_bytes // 4

    @property
    def barriers_at(self) -> int:
        """One for each stage."""
        return self.stages_at + max(self.stages * self.stage_bytes, 4 * self.buffer_bytes)

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.barriers_at + 8 * self.stages


def make_plan(sizes: Sizes) -> Plan:
    """The plan with two stages, or one."""
    for stages in (2, 1):
        plan = Plan(sizes, stages)
        if plan.shared_bytes <= _SHARED_LIMIT:
            return plan
    raise NotImplementedError(f"a chunk of K = {sizes.key} does not fit in shared memory")


class Program(Chunk):
    """The block's program for one chunk."""

    def __init__(self, plan: Plan, machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]):
        super().__init__(plan.sizes, machine, inputs[:3])
        self.locate(machine.cluster())
        self.plan = plan
        self.values, self.cotangents, self.states, self.pulled = inputs[3:]
        self.dq, self.dk, self.dgate = outputs
        # of a warp: its 16 rows, and its 64 channels
        self.rows, self.slab = self.warp & 3, self.warp >> 2
        self.slabs = plan.sizes.key // 64

    def run(self) -> None:
        """The chunk."""
        m, plan = self.machine, self.plan
        with m.when(m.thread().equals(0)):
            for stage in range(plan.stages):
                m.barrier_init(plan.barriers_at + 8 * stage)
        m.synchronize()
        tiles = self.sizes.value // VALUE_TILE
        for stage in range(plan.stages):
            self.fetch(m.constant(stage))
        weighed = self.weigh()
        queries, keys = self.read_values(tiles)
        self.prefetch_later()
        m.synchronize()
        gates = self.load_gates()
        self.to_buffer(0, queries)
        self.to_buffer(1, keys)
        self.within_queries()
        m.synchronize()
        weights = [each(m.exp2, gate) for gate in gates]
        given = self.finish_queries(weighed, weights)
        m.synchronize()
        self.within_keys()
        m.synchronize()
        rows = self.finish_keys(weighed, weights, given)
        m.synchronize()
        span = self.span(weighed)
        self.give(weighed, 2, [self.plus(row, span) for row in rows])
        m.loop(0, weighed.slow, 1, self.halve)

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
                    at, size = start + (2 * _ROWS_BYTES + i * plan.state_bytes), plan.state_bytes
                    row, zero = self.block * tiles + step, m.constant(0)
                    m.copy_in(at, states, row, size, zero, size, barrier)
            for row in range(0, CHUNK, plan.threads // units):
                place, _ = self.place(first + row)
                target, offset = start + (first + row) * _PITCH + unit * 16, step * 128 + unit * 16
                for i, (array, heads, head) in enumerate(
                    (
                        (self.values, sizes.groups, self.group),
                        (self.cotangents, sizes.heads, self.head),
                    )
                ):
                    source = place * heads + head
                    m.load_ahead(target + i * _ROWS_BYTES, array, source, 2 * sizes.value, offset)
        m.reconverge()
        m.commit_loads()

    def prefetch_later(self) -> None:
        """Brings what a later block begins with into the L2, while this one does not load."""
        m, plan, sizes = self.machine, self.plan, self.sizes
        index, size = m.cluster() + _AT_A_TIME, plan.state_bytes
        with m.when(index < sizes.sequences * sizes.chunks):
            here = self.chunk, self.block, self.head, self.first, self.group
            self.locate(index)
            self.prefetch()
            with m.when(m.thread().equals(0)):
                row = self.block * (sizes.value // VALUE_TILE)
                for states in (self.states, self.pulled):
                    m.prefetch_bulk(states, row, size, size)
            self.chunk, self.block, self.head, self.first, self.group = here
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
            cotangents = self.load_rows(start + _ROWS_BYTES)
            states = start + 2 * _ROWS_BYTES
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
        for block in range(blocks):
            found = carried[2 * count + 8 * block : 2 * count + 8 * block + 8]
            column = self.slab * blocks + block
            below = (self.rows - column) * ROWS
            found = self.where(lambda row, col, below=below: col < below + row + 1, found)
            self.store_block(plan.scores_at, self.rows, column, found)
        self.store_state_sums(carried[-8:])
        return carried[:count], carried[count : 2 * count]

    def load_rows(self, start: Int) -> list[Any]:
        """Left operands: this warp's rows by 64 values."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        at = start + (self.rows * ROWS + row) * _PITCH + unit * 16
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
        at = start + (column * ROWS + row) * _PITCH + unit * 16
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
        at = (group + _STATE_SUMS) * (4 * self.sizes.key) + unit * 32 + self.plan.sums_at
        for i in (0, 4):
            m.store_shared(at + 4 * i, [m.bits(x) for x in sums[i : i + 4]])

    # products within the chunk ---------------------------------------------------------------

    def tile_rows(self, tile: Int) -> list[Int]:
        """Right operands of this warp's channels from a tile of 16 rows."""
        start = self.slab * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at
        return self.operands(start, rows_first=True)

    def scores_of(self, row: IntLike, column: IntLike, *, transpose: bool = False) -> list[Any]:
        """A left operand from the gradients of scores."""
        inner, unit = lane_row(self.lane, rows_first=not transpose)
        inner, unit = inner + row * ROWS, unit + column * 2
        at = inner * 128 + permuted(unit, inner) + self.plan.scores_at
        return self.machine.load_matrices(at, transpose=transpose)

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

    # gradients -------------------------------------------------------------------------------

    def nothing(self) -> Pair:
        """Zeros."""
        return self.machine.zero(), self.machine.zero()

    def finish_queries(self, weighed: Weighed, weights: Sequence[Pair]) -> list[Pair]:
        """Gives the gradients of queries; what rows give to the gates before them."""
        m = self.machine
        total, spanned, given, gradients = self.nothing(), self.nothing(), [], []
        rows = zip(
            self.tile_places(self.part + QUERIES),
            self.prefixes(weights),
            self.row_places(self.plan.far_at),
            self.buffer(0),
            self.buffer(2),
            strict=True,
        )
        for query, weight, far, state, near in rows:
            query = self.load_packed(query)
            state = self.times(self.read(state), weighed.before)
            far = self.times(self.far(3, far), weighed.decays[2])
            total = each(m.fma, query, state, total)
            spanned = each(m.fma, query, far, spanned)
            gradient = self.plus(self.plus(state, self.read(near)), far)
            gradients.append(self.times(weight, gradient))
            given.append(self.times(query, gradient))
        self.store_sums(self.part + _QUERY_SUMS, total)
        with m.when(self.part.equals(3)):
            self.store_sums(_OVER_THIRD, spanned)
        self.give(weighed, 0, gradients)
        return given

    def finish_keys(
        self, weighed: Weighed, weights: Sequence[Pair], given: Sequence[Pair]
    ) -> list[Pair]:
        """Gives the gradients of keys; those of gates, but for what spans all 16 rows."""
        m = self.machine
        total, spanned = self.nothing(), self.nothing()
        upwards, downwards, gradients = [], [], []
        rows = zip(
            self.tile_places(self.part + KEYS),
            self.tile_places(self.part + DIAGONAL),
            self.suffixes(weights),
            self.row_places(self.plan.far_at),
            given,
            *(self.buffer(buffer) for buffer in (1, 2, 3)),
            strict=True,
        )
        for key, other, weight, far, back, state, near, diagonal in rows:
            key, other, own = self.load_packed(key), self.load_packed(other), self.read(diagonal)
            state = self.times(self.read(state), weighed.after)
            far = self.times(self.far(0, far), weighed.decays[1])
            total = each(m.fma, key, state, total)
            spanned = each(m.fma, key, far, spanned)
            gradient = self.plus(self.plus(state, self.read(near)), far)
            upwards.append(self.times(key, gradient))
            downwards.append(each(m.fma, each(m.negate, other), own, back))
            gradient = each(m.fma, own, weighed.inverse, gradient)
            gradients.append(gradient if weight is None else self.times(weight, gradient))
        self.store_sums(self.part + _KEY_SUMS, total)
        with m.when(self.part.equals(0)):
            self.store_sums(_OVER_SECOND, spanned)
        self.give(weighed, 1, gradients)
        return self.over_intervals(downwards, upwards)

    def over_intervals(
        self, downwards: Sequence[Pair | None], upwards: Sequence[Pair | None]
    ) -> list[Pair]:
        """For each row the sums of one list from it on, and of the other before it."""
        found = [self.nothing()] * len(downwards)
        total = None
        for row in reversed(range(len(downwards))):
            total = self.joined(total, downwards[row])
            found[row] = self.joined(found[row], total) or found[row]
        total = None
        for row, value in enumerate(upwards):
            found[row] = self.joined(found[row], total) or found[row]
            total = self.joined(total, value)
        return found

    def joined(self, left: Pair | None, right: Pair | None) -> Pair | None:
        """The sum of what there is."""
        if left is None or right is None:
            return left or right
        return self.plus(left, right)

    def add_all(self, places: Sequence[Int], rows: Sequence[Pair]) -> None:
        """Adds rows of this thread to a buffer."""
        for place, values in zip(places, rows, strict=True):
            self.write(place, self.plus(self.read(place), values))

    def give(self, weighed: Weighed, result: int, rows: Sequence[Pair]) -> None:
        """Rows of a result to device memory, or, if halving adds to them, to its buffer."""
        with self.machine.when(weighed.slow.equals(0)):
            self.store(result, rows)
        with self.machine.when(weighed.slow.equals(1)):
            for place, values in zip(self.buffer(result), rows, strict=True):
                self.write(place, values)
        self.machine.reconverge()

    def store(self, result: int, rows: Sequence[Pair]) -> None:
        """Rows of a result to device memory: float32 gates, bfloat16 queries and keys."""
        m, sizes = self.machine, self.sizes
        array, size = ((self.dq, 2), (self.dk, 2), (self.dgate, 4))[result]
        heads, pitch, offset = sizes.heads, size * sizes.key, self.pair * (2 * size)
        for row, values in enumerate(rows):
            words = [m.pack(*values)] if size == 2 else [m.bits(x) for x in values]
            target, inside, displacement = self.own_row(row, heads, self.head, pitch)
            with m.when(inside) if sizes.ragged else contextlib.nullcontext():
                m.store_global(array, target, pitch, offset, words, displacement=displacement)

    def span(self, weighed: Weighed) -> Pair:
        """What the gates of this thread's rows have from all that spans them."""
        nothing = self.nothing()
        span = nothing
        for group in range(16):
            span = self.plus(span, self.load_sums(_STATE_SUMS + group))
        span = self.times(span, weighed.whole)
        for part in range(1, 4):
            later = self.choose(self.part < part, self.load_sums(_QUERY_SUMS + part), nothing)
            span = self.plus(span, later)
        for part in range(3):
            earlier = self.part >= part + 1
            span = self.plus(span, self.choose(earlier, self.load_sums(_KEY_SUMS + part), nothing))
        for part, sums in ((1, _OVER_SECOND), (2, _OVER_THIRD)):
            over = self.choose(self.part.equals(part), self.load_sums(sums), nothing)
            span = self.plus(span, over)
        return span

    # the diagonal by halving -----------------------------------------------------------------

    def halve(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Adds the gradients through blocks on the diagonal, whose tiles of keys are zero then."""
        del index
        m = self.machine
        weights = [each(m.exp2, gate) for gate in self.load_gates()]
        scale = (self.scale, self.scale)
        queries, keys = self.load_unweighted()
        own = self.diagonal()
        self.add_all(
            self.buffer(0),
            [self.times(self.times(x, d), scale) for x, d in zip(keys, own, strict=True)],
        )
        self.add_all(self.buffer(1), [self.times(x, d) for x, d in zip(queries, own, strict=True)])
        for half in HALVES:
            self.store_level(weights, half)
            m.synchronize()
            places = self.tile_rows(self.rows + DIAGONAL)
            self.to_buffer(3, self.add_product(self.zeros(), self.split_scores(half), places))
            m.synchronize()
            self.add_level(half, weights)
        for result in range(3):
            self.store(result, [self.read(place) for place in self.buffer(result)])
        return carried

    def diagonal(self) -> list[Pair]:
        """The gradient of each row's score with itself, twice."""
        m, found = self.machine, []
        for row in range(ROWS):
            inner = self.part * ROWS + row
            at = inner * 128 + permuted(self.part * 2 + (row >> 3), inner) + self.plan.scores_at
            (word,) = m.load_shared(at + 4 * ((row & 7) >> 1), 1)
            value = m.unpack(word)[row & 1]
            found.append((value, value))
        return found

    def split_scores(self, half: int) -> list[Any]:
        """A left operand: gradients of scores that a level splits, and their transposes."""
        m, words = self.machine, []
        lower = self.scores_of(self.rows, self.rows)
        upper = self.scores_of(self.rows, self.rows, transpose=True)
        for index, both in enumerate(zip(lower, upper, strict=True)):
            row = (self.lane >> 2) + 8 * (index & 1)
            column = (self.lane & 3) * 2 + 8 * (index >> 1)
            values = self.plus(*(m.unpack(word) for word in both))
            words.append(
                m.pack(
                    *(
                        m.select(across(row, column + i, half), value, m.zero())
                        for i, value in enumerate(values)
                    )
                )
            )
        return words

    def add_level(self, half: int, weights: Sequence[Pair]) -> None:
        """Adds the gradients of one level's rows."""
        keys, queries, products = self.buffer(1), self.buffer(0), {}
        places = zip(self.tile_places(self.part + DIAGONAL), self.buffer(3), strict=True)
        rows = dict(enumerate(places))
        for row, weight in self.level(weights, half):
            mixed, gradient = self.load_packed(rows[row][0]), self.read(rows[row][1])
            products[row] = self.times(mixed, gradient)
            if row & half:
                gradient = self.times(gradient, (self.scale, self.scale))
            if weight is not None:
                gradient = self.times(gradient, weight)
            self.add_all([(queries if row & half else keys)[row]], [gradient])
        gates = self.buffer(2)
        for start in range(0, ROWS, 2 * half):
            left = [products[start + i] for i in range(half)]
            right = [products[start + half + i] for i in range(half)]
            sums = self.over_intervals([None] * half, left)
            sums += self.over_intervals(right, [None] * half)
            self.add_all(gates[start : start + 2 * half], sums)


def program(plan: Plan) -> Any:
    """The program for `launch` or `simulate`."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(plan, machine, inputs, outputs).run()

    return run

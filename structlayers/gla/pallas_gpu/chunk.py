"""A chunk of one head as its block of threads has it: weighted queries and keys, in tiles.

A thread has two channels of 16 rows. Weights are products of gates: of those from the start of the
16 rows to a row, for queries, and of those after a row to their end, for keys; never a quotient,
except for the 16 x 16 scores on the diagonal, whose keys are divided by the gates up to their row.
Once these are below 2^-60 in some channel, the rows from there on take a halving of the 16 rows, as
`xla.chunks` halves chunks. So nothing depends on later gates: what looks at all 16 rows only
decides whether to look for such rows.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, Sizes, lane_row, permuted

_LOG2_E = 0x3FB8AA3B  # of float32
# The product of two such is in the range of float32: one reciprocal does for both channels.
_WEAKEST = 0x21800000  # 2**-60
_GUARD = _WEAKEST + (1 << 23)  # twice that, as the decay of 16 rows is rounded in another way
_ONE = 0x3F800000

# Tiles of 16 rows: weighted queries, weighted keys, keys of the diagonal, and, for scores of rows
# with 16 rows or more between them, queries of the last rows and keys of the first.
QUERIES, KEYS, DIAGONAL, FAR_QUERIES, FAR_KEYS, TILES = 0, 4, 8, 12, 13, 14
HALVES = (1, 2, 4, 8)

type Pair = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What a thread knows of its rows after `Chunk.weigh`.

    Attributes:
        before: decay of the chunk before the 16 rows.
        after: decay after them.
        decays: of the four times 16 rows.
        whole: of the chunk.
        slow: 0 if no row is halved.
    """

    before: Pair
    after: Pair
    decays: list[Pair]
    whole: Pair
    slow: Int


class Chunk:
    """What the programs of chunks share.

    A team of `2 K` threads of the block takes a chunk. Its scratch starts with the decays of the
    four times 16 rows, K float32 each, and the tiles.
    """

    def __init__(
        self, sizes: Sizes, machine: Machine, arrays: Sequence[Any], *, team_bytes: int = 0
    ):
        """Finds the place of a thread.

        Args:
            sizes: of the call.
            machine: that executes the program.
            arrays: queries, keys and gates.
            team_bytes: scratch of a team.
        """
        self.sizes, self.machine = sizes, machine
        self.q, self.k, self.gate = arrays
        m, half = machine, sizes.key // 2
        self.threads = 4 * half
        shift = self.threads.bit_length() - 1
        self.team, self.thread = m.thread() >> shift, m.thread() & (self.threads - 1)
        self.lane, self.warp = m.lane(), m.warp() & (self.threads // 32 - 1)
        self.pair, self.part = self.thread & (half - 1), self.thread >> (half.bit_length() - 1)
        # this thread's word in a row of a panel, by the row modulo 8
        unit = self.pair >> 2
        self.words = [permuted(unit & 7, m.constant(row)) + (self.pair & 3) * 4 for row in range(8)]
        self.panel = unit >> 3
        self.scratch = self.team * team_bytes
        self.tiles_at = self.scratch + 16 * sizes.key
        self.one, self.scale = self.number(_ONE), self.number(_bits(sizes.scale))

    def locate(self, index: Int, *, from_end: bool = False) -> None:
        """Goes to a chunk: heads side by side, then time, from the end or the start."""
        sizes = self.sizes
        # what runs next begins where this ends, and finds it in the L2
        chunk = index.divide(sizes.sequences)
        self.go_to(
            index.modulo(sizes.sequences), chunk * -1 + (sizes.chunks - 1) if from_end else chunk
        )

    def go_to(self, sequence: Int, chunk: Int) -> None:
        """Goes to a chunk of a query head."""
        sizes = self.sizes
        self.sequence, self.chunk = sequence, chunk
        self.block = sequence * sizes.chunks + chunk
        self.head = sequence.modulo(sizes.heads)
        self.first = sequence.divide(sizes.heads) * sizes.time
        self.group = sizes.group_of(self.head)

    def synchronize(self) -> None:
        """Waits for the team."""
        self.machine.synchronize_team(self.team, self.threads)

    @property
    def tile_bytes(self) -> int:
        """Of 16 rows."""
        return ROWS * self.sizes.key * 2

    def number(self, bits: int) -> Any:
        """A float32 from its bits."""
        return self.machine.float(self.machine.word(bits))

    def nothing(self) -> Pair:
        """Zeros."""
        return self.machine.zero(), self.machine.zero()

    def times(self, left: Pair, right: Pair) -> Pair:
        """The product in both channels."""
        return each(self.machine.multiply, left, right)

    def plus(self, left: Pair, right: Pair) -> Pair:
        """The sum in both channels."""
        return each(self.machine.add, left, right)

    # device memory ---------------------------------------------------------------------------

    def place(self, row: IntLike, chunk: Int | None = None) -> tuple[Int, Int]:
        """The token of a row of the chunk, the last one past the end; and whether it exists.

        Args:
            row: of 64.
            chunk: of the same sequence, or None for the one it is at.
        """
        place = (self.chunk if chunk is None else chunk) * CHUNK + row
        inside = place < self.sizes.time
        if self.sizes.ragged:
            place = place.minimum(self.sizes.time - 1)
        return self.first + place, inside

    def own_row(self, row: int, heads: int, head: Int, pitch: int) -> tuple[Int, Int, int]:
        """One of this thread's rows of an array `(B, T, heads, ...)`.

        Returns:
            A row, whether the token exists, and the displacement from the row in bytes.
        """
        if self.sizes.ragged:
            place, inside = self.place(self.part * ROWS + row)
            return place * heads + head, inside, 0
        place, inside = self.place(self.part * ROWS)
        return place * heads + head, inside, row * heads * pitch

    def load(self, array: Any, row: int, heads: int, head: Int, size: int) -> list[Any]:
        """This thread's two channels of one of its rows; zero past the end of the sequence."""
        m, pitch = self.machine, size * self.sizes.key
        place, inside, displacement = self.own_row(row, heads, head, pitch)
        offset = self.pair * (2 * size)
        words = m.load_global(array, offset, size // 2, place, pitch, displacement=displacement)
        if self.sizes.ragged:
            words = [m.select(inside, word, m.word(0)) for word in words]
        return words

    def load_gates(self) -> list[Pair]:
        """Base-2 logarithms of the gates of this thread's rows."""
        return list(map(self.base_2, self.load_gate_words()))

    def load_gate_words(self) -> list[Any]:
        """Gates of this thread's rows as they are stored: logarithms, two channels each."""
        groups = self.sizes.groups
        return [self.load(self.gate, row, groups, self.group, 4) for row in range(ROWS)]

    def base_2(self, words: Sequence[Any]) -> Pair:
        """Logarithms of two gates to base 2."""
        m, log2_e = self.machine, self.number(_LOG2_E)
        return each(lambda word: m.multiply(m.float(word), log2_e), words)

    def load_queries(self) -> list[Any]:
        """Queries of this thread's rows, two channels in a word."""
        heads = self.sizes.heads
        return [self.load(self.q, row, heads, self.head, 2)[0] for row in range(ROWS)]

    def load_keys(self) -> list[Any]:
        """Keys of this thread's rows, two channels in a word."""
        groups = self.sizes.groups
        return [self.load(self.k, row, groups, self.group, 2)[0] for row in range(ROWS)]

    # weights ---------------------------------------------------------------------------------

    def weigh(self) -> Weighed:
        """Fills the tiles."""
        m, sizes = self.machine, self.sizes
        gates, queries = self.load_gates(), self.load_queries()
        self.load_more()
        total = gates[0]
        for gate in gates[1:]:
            total = self.plus(total, gate)
        weights = [each(m.exp2, gate) for gate in gates]
        decay = each(m.exp2, total)
        self.store_pair(self.scratch + self.part * (4 * sizes.key), decay)
        slow = m.synchronize_any(self.may_be_weak(weights, decay), self.team, self.threads)
        keys = self.load_keys()  # not before, for the registers
        decays = [self.load_pair(self.scratch + part * 4 * sizes.key) for part in range(4)]
        one = (self.one, self.one)
        before, after, whole = one, one, decays[0]
        for part in range(3):
            before = self.times(before, self.choose(self.part >= part + 1, decays[part], one))
            after = self.times(after, self.choose(self.part < part + 1, decays[part + 1], one))
            whole = self.times(whole, decays[part + 1])
        weighed = Weighed(before, after, decays, whole, slow)
        self.fill_queries(queries, weights, weighed)
        self.fill_keys(keys, weights, weighed)
        return weighed

    def fill_queries(self, words: Sequence[Any], weights: Sequence[Pair], known: Weighed) -> None:
        """Tiles of queries."""
        weighted = self.weighted(words, self.prefixes(weights))
        for row, (place, values) in enumerate(
            zip(self.tile_places(self.part + QUERIES), weighted, strict=True)
        ):
            self.store_packed(place, values)
            self.took_query(row, values, known)
        with self.machine.when(self.part.equals(3)):
            self.store_tile(FAR_QUERIES, [self.times(x, known.decays[2]) for x in weighted])

    def fill_keys(self, words: Sequence[Any], weights: Sequence[Pair], known: Weighed) -> None:
        """Tiles of keys, the last rows first, whose weights are found first."""
        self.store_tile(self.part + DIAGONAL, self.weighted(words, self.inverses(weights)))
        weighted, places = (
            self.weighted(words, self.suffixes(weights)),
            self.tile_places(self.part + KEYS),
        )
        for row in reversed(range(ROWS)):
            self.store_packed(places[row], weighted[row])
            self.took_key(row, weighted[row], known)
        with self.machine.when(self.part.equals(0)):
            self.store_tile(FAR_KEYS, [self.times(x, known.decays[1]) for x in weighted])

    def weighted(self, words: Sequence[Any], weights: Iterable[Pair | None]) -> list[Pair]:
        """Rows of two channels in a word, times weights of which None is 1."""
        rows = zip(map(self.machine.unpack, words), weights, strict=True)
        return [row if weight is None else self.times(row, weight) for row, weight in rows]

    def load_more(self) -> None:
        """What else a program loads, after what the tiles are waiting for."""

    def took_query(self, row: int, values: Pair, known: Weighed) -> None:
        """What else a program does with a weighted query."""

    def took_key(self, row: int, values: Pair, known: Weighed) -> None:
        """What else a program does with a weighted key."""

    def choose(self, condition: Int, chosen: Pair, other: Pair) -> Pair:
        """One of two pairs."""
        return each(lambda x, y: self.machine.select(condition, x, y), chosen, other)

    def prefixes(self, weights: Sequence[Pair]) -> list[Pair]:
        """The scale and the gates from the start of the 16 rows to each row."""
        weight, found = (self.scale, self.scale), []
        for gate in weights:
            weight = self.times(weight, gate)
            found.append(weight)
        return found

    def inverses(self, weights: Sequence[Pair]) -> Generator[Pair]:
        """What keys of the diagonal are multiplied by; finite where it may not be used."""
        m, weight = self.machine, None
        for gate in weights:
            weight = gate if weight is None else self.times(weight, gate)
            low, high = each(
                lambda x: m.float(m.word_of(self.integer(x).maximum(_WEAKEST))), weight
            )
            inverse = m.reciprocal(m.multiply(low, high))
            yield m.multiply(inverse, high), m.multiply(inverse, low)

    def integer(self, value: Any) -> Int:
        """The bits of a float32, in the order of values from 0 on."""
        return self.machine.integer_of(self.machine.bits(value))

    def below(self, weight: Pair, bound: int) -> Int:
        """Whether a weight is below a float32 given by its bits, in either channel."""
        low, high = each(self.integer, weight)
        return low.minimum(high) < bound

    def may_be_weak(self, weights: Sequence[Pair], decay: Pair) -> Int:
        """Whether to look for rows that are halved, given gates of 16 rows and their product."""
        del weights
        return self.below(decay, _GUARD)

    def weak_rows(self, weights: Sequence[Pair]) -> Generator[Int]:
        """For each row whether it is halved; so are all after such a row."""
        weight = None
        for gate in weights:
            weight = gate if weight is None else self.times(weight, gate)
            yield self.below(weight, _WEAKEST)

    def count_kept(self, weights: Sequence[Pair]) -> None:
        """How many of the 16 rows are not halved, into the scratch."""
        m, count = self.machine, self.machine.constant(ROWS)
        for weak in self.weak_rows(weights):
            count = count - Int(m, m.select(weak, m.constant(1).value, m.constant(0).value))
        least = m.warp_minimum(count)
        with m.when(self.lane.equals(0)):
            m.store_shared(self.scratch + self.warp * 4, [m.word_of(least)])
        m.reconverge()

    def kept_rows(self, part: Int) -> Int:
        """What `count_kept` found for a part, after a barrier."""
        m, warps, least = self.machine, self.sizes.key // 64, self.machine.constant(ROWS)
        for i in range(warps):
            (count,) = m.load_shared((part * warps + i) * 4 + self.scratch, 1)
            least = least.minimum(m.integer_of(count))
        return least

    def suffixes(self, weights: Sequence[Pair]) -> list[Pair | None]:
        """The gates after each row to the end of the 16 rows; None is 1."""
        found: list[Pair | None] = [None]
        for gate in reversed(weights[1:]):
            after = found[-1]
            found.append(gate if after is None else self.times(after, gate))
        return found[::-1]

    def level(self, weights: Sequence[Pair], half: int) -> Generator[tuple[int, Pair | None]]:
        """Rows, and the gates between each and the split of its block of ``2 half``; None is 1."""
        for split in range(half, ROWS, 2 * half):
            weight = None
            for row in range(split, split + half):
                weight = weights[row] if weight is None else self.times(weight, weights[row])
                yield row, weight
            weight = None
            for row in range(split - 1, split - half - 1, -1):
                yield row, weight
                weight = weights[row] if weight is None else self.times(weight, weights[row])

    def store_level(self, weights: Sequence[Pair], half: int) -> None:
        """Queries of right halves and keys of left ones, weighted to the split, as a tile."""
        sizes, places = self.sizes, self.tile_places(self.part + DIAGONAL)
        for row, weight in self.level(weights, half):
            if row & half:
                (word,) = self.load(self.q, row, sizes.heads, self.head, 2)
                value = self.times(self.machine.unpack(word), (self.scale, self.scale))
            else:
                (word,) = self.load(self.k, row, sizes.groups, self.group, 2)
                value = self.machine.unpack(word)
            self.store_packed(places[row], value if weight is None else self.times(value, weight))

    def load_unweighted(self) -> tuple[list[Pair], list[Pair]]:
        """Scaled queries, and keys."""
        scale = (self.scale, self.scale)
        queries = [self.times(self.machine.unpack(word), scale) for word in self.load_queries()]
        return queries, [self.machine.unpack(word) for word in self.load_keys()]

    # shared memory ---------------------------------------------------------------------------

    def load_pair(self, start: IntLike) -> Pair:
        """This thread's channels of K float32 in shared memory."""
        low, high = self.machine.load_shared(self.pair * 8 + start, 2)
        return self.machine.float(low), self.machine.float(high)

    def store_pair(self, start: IntLike, values: Pair) -> None:
        """The reverse of `load_pair`."""
        m = self.machine
        m.store_shared(self.pair * 8 + start, [m.bits(x) for x in values])

    def tile_places(self, tile: IntLike) -> list[Int]:
        """This thread's words of the rows of a tile."""
        start = self.panel * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at
        places = [word + start for word in self.words]
        return [places[row & 7] + 128 * row for row in range(ROWS)]

    def store_packed(self, place: Int, values: Pair) -> None:
        """Both channels as bfloat16."""
        self.machine.store_shared(place, [self.machine.pack(*values)])

    def store_tile(self, tile: IntLike, rows: Sequence[Pair]) -> None:
        """This thread's words of a tile, as bfloat16."""
        for place, values in zip(self.tile_places(tile), rows, strict=True):
            self.store_packed(place, values)

    def load_packed(self, place: Int) -> Pair:
        """The reverse of `store_packed`."""
        return self.machine.unpack(self.machine.load_shared(place, 1)[0])

    # blocks of 16 x 16 -----------------------------------------------------------------------

    def places_of(self, index: int) -> tuple[Int, Int]:
        """Row and column of a register of a 16 x 16 result, of the eight of two tiles."""
        row = (self.lane >> 2) + 8 * (index >> 1 & 1)
        return row, (self.lane & 3) * 2 + ((index & 1) + 8 * (index >> 2))

    def where(
        self,
        chosen: Callable[[Int, Int], Int],
        values: Sequence[Any],
        others: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Values of a 16 x 16 result where ``chosen(row, column)``, others or zero elsewhere."""
        zero = self.machine.zero()
        others = [zero] * len(values) if others is None else others
        return [
            self.machine.select(chosen(*self.places_of(index)), value, other)
            for index, (value, other) in enumerate(zip(values, others, strict=True))
        ]

    def store_block(
        self,
        start: IntLike,
        row: Int,
        column: Int,
        found: Sequence[Any],
        *,
        transpose: bool = False,
    ) -> None:
        """A 16 x 16 result, or its transpose, as bfloat16 into a tile of 64 x 64."""
        m = self.machine
        words = [m.pack(found[i], found[i + 1]) for i in range(0, 8, 2)]
        place = self.block_place(start, row, column, rows_first=not transpose)
        m.store_matrices(place, words, transpose=transpose)

    def block_place(
        self, start: IntLike, row: IntLike, column: IntLike, *, rows_first: bool = True
    ) -> Int:
        """Where this lane finds a 16 x 16 block of a tile of 64 x 64."""
        inner, unit = lane_row(self.lane, rows_first=rows_first)
        inner, unit = inner + row * ROWS, unit + column * 2
        return inner * 128 + permuted(unit, inner) + start


def across(row: Int, column: Int, half: int) -> Int:
    """Whether blocks of ``2 half`` rows are the smallest that hold both rows."""
    different = row ^ column
    return (different >= half) & (different < 2 * half)


def each(function: Callable[..., Any], *pairs: Sequence[Any]) -> Pair:
    """A function of both channels."""
    low, high = (function(*values) for values in zip(*pairs, strict=True))
    return low, high


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))

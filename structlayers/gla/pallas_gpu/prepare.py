"""What a chunk needs beside its values: weighted queries and keys, scores, and its decay.

A block of threads takes one chunk of one query head, for all chunks at once. A thread has two
channels of 16 rows. Weights are products of gates: of those from the start of the 16 rows to a row,
for queries, and of those after a row to their end, for keys; never a quotient of two, except for
keys of the 16 x 16 scores on the diagonal, and there only while the decay of the 16 rows is above
2^-100 in every channel. Otherwise the block halves the 16 rows as `xla.chunks` halves chunks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.gla.pallas_gpu.layout import CHUNK, ROWS, SCORE_BYTES, Sizes, lane_row, permuted

_LOG2_E = 0x3FB8AA3B  # of float32
_WEAKEST = 0x0D800000  # 2**-100
_ONE = 0x3F800000

# Tiles of 16 rows: weighted queries, weighted keys, keys of the diagonal, and both at the far end.
_QUERIES, _KEYS, _DIAGONAL, _FAR_QUERIES, _FAR_KEYS, _TILES = 0, 4, 8, 12, 13, 14
# Blocks of 16 x 16 scores: row and column of the block, tiles of queries and of keys. Those above
# the diagonal are zero, whatever is multiplied.
_BLOCKS = (
    *((i, i, _QUERIES + i, _DIAGONAL + i) for i in range(4)),
    (1, 0, _QUERIES + 1, _KEYS),
    (3, 2, _QUERIES + 3, _KEYS + 2),
    (2, 0, _QUERIES + 2, _FAR_KEYS),
    (2, 1, _QUERIES + 2, _KEYS + 1),
    (3, 0, _FAR_QUERIES, _FAR_KEYS),
    (3, 1, _FAR_QUERIES, _KEYS + 1),
    *((i, j, _QUERIES, _KEYS) for i in range(4) for j in range(i + 1, 4)),
)


def threads(sizes: Sizes) -> int:
    """Of a block: two channels of 16 rows each."""
    return 2 * sizes.key


def shared_bytes(sizes: Sizes) -> int:
    """Scratch of a block: decays of 4 times 16 rows, tiles, scores."""
    return 16 * sizes.key + _TILES * ROWS * sizes.key * 2 + SCORE_BYTES


class Program:
    """The block's program for one chunk."""

    def __init__(self, sizes: Sizes, machine: Machine, inputs: Sequence[Any], image: Any):
        self.sizes, self.machine = sizes, machine
        self.q, self.k, self.gate = inputs
        self.image = image
        m = machine
        thread, half = m.thread(), sizes.key // 2
        self.block = m.cluster()
        self.lane, self.warp = m.lane(), m.warp()
        self.pair, self.part = thread & (half - 1), thread >> (half.bit_length() - 1)
        self.chunk = self.block.modulo(sizes.chunks)
        sequence = self.block.divide(sizes.chunks)
        self.head = sequence.modulo(sizes.heads)
        self.first = sequence.divide(sizes.heads) * sizes.time
        self.group = self.head.divide(sizes.shared) if sizes.shared > 1 else self.head
        # this thread's word in a row of a panel, by the row modulo 8
        unit = self.pair >> 2
        self.words = [permuted(unit & 7, m.constant(row)) + (self.pair & 3) * 4 for row in range(8)]
        self.panel = unit >> 3
        self.tiles_at = 16 * sizes.key
        self.scores_at = self.tiles_at + _TILES * self.tile_bytes

    @property
    def tile_bytes(self) -> int:
        """Of 16 rows."""
        return ROWS * self.sizes.key * 2

    def run(self) -> None:
        """The chunk."""
        m = self.machine
        slow = self.weigh()
        m.synchronize()
        rounds = []
        warps = threads(self.sizes) // 32
        for start in range(0, len(_BLOCKS), warps):
            rounds.append(self.scores(_BLOCKS[start : start + warps]))
        rounds[0] = m.loop(0, slow, 1, lambda _, found: self.halve(found), rounds[0])
        for start, found in zip(range(0, len(_BLOCKS), warps), rounds, strict=True):
            self.store_scores(found, _BLOCKS[start : start + warps])
        m.synchronize()
        self.copy_scores()

    # gates, queries and keys -----------------------------------------------------------------

    def load(self, array: Any, row: int, heads: int, head: Int, size: int) -> list[Any]:
        """This thread's two channels of one of its rows; zero past the end of the sequence."""
        m, sizes = self.machine, self.sizes
        place = self.chunk * CHUNK + self.part * ROWS + row
        inside = place < sizes.time
        if sizes.ragged:
            place = place.minimum(sizes.time - 1)
        at, pitch = (self.first + place) * heads + head, size * sizes.key
        words = m.load_global(array, self.pair * (2 * size), size // 2, at, pitch)
        if sizes.ragged:
            words = [m.select(inside, word, m.word(0)) for word in words]
        return words

    def gates(self) -> list[tuple[Any, Any]]:
        """Base-2 logarithms of the gates of this thread's rows."""
        m, sizes = self.machine, self.sizes
        log2_e = m.float(m.word(_LOG2_E))
        loaded = [self.load(self.gate, row, sizes.groups, self.group, 4) for row in range(ROWS)]
        return [tuple(m.multiply(m.float(w), log2_e) for w in words) for words in loaded]

    def rows_of(self, array: Any) -> list[tuple[Any, Any]]:
        """Of q or k, in float32."""
        heads, head = self.sizes.groups, self.group
        if array is self.q:
            heads, head = self.sizes.heads, self.head
        return [
            self.machine.unpack(self.load(array, row, heads, head, 2)[0]) for row in range(ROWS)
        ]

    def weigh(self) -> Int:
        """Fills the tiles and the image; 1 if the diagonal needs halving."""
        m, sizes = self.machine, self.sizes
        gates = self.gates()
        queries, keys = self.rows_of(self.q), self.rows_of(self.k)
        weights = [_each(m.exp2, gate) for gate in gates]
        total = gates[0]
        for gate in gates[1:]:
            total = _each(m.add, total, gate)
        decay = _each(m.exp2, total)
        m.store_shared(self.part * (4 * sizes.key) + self.pair * 8, [m.bits(x) for x in decay])
        weak = [m.integer_of(m.bits(x)) < _WEAKEST for x in decay]
        slow = m.synchronize_any(weak[0] | weak[1])
        parts = [
            [m.float(w) for w in m.load_shared(self.pair * 8 + part * 4 * sizes.key, 2)]
            for part in range(4)
        ]
        one = m.float(m.word(_ONE))
        before, after, whole = (one, one), (one, one), parts[0]
        for part in range(3):
            chosen = [m.select(self.part >= part + 1, x, one) for x in parts[part]]
            before = _each(m.multiply, before, chosen)
            chosen = [m.select(self.part < part + 1, x, one) for x in parts[part + 1]]
            after = _each(m.multiply, after, chosen)
            whole = _each(m.multiply, whole, parts[part + 1])
        with m.when(self.part.equals(0)):
            offset = self.pair * 8 + sizes.decay_at
            m.store_global(
                self.image, self.block, sizes.image_bytes, offset, [m.bits(x) for x in whole]
            )
        scale = m.float(m.word(_bits(sizes.scale)))
        weight = (scale, scale)
        for row in range(ROWS):
            weight = _each(m.multiply, weight, weights[row])
            queries[row] = _each(m.multiply, queries[row], weight)
        weight = None
        for row in reversed(range(ROWS)):
            if weight is not None:
                keys[row] = _each(m.multiply, keys[row], weight)
                weight = _each(m.multiply, weight, weights[row])
            else:
                weight = weights[row]
        self.store_tile(self.part + _QUERIES, queries)
        self.store_tile(self.part + _KEYS, keys)
        self.store_image(queries, before, 0)
        self.store_image(keys, after, sizes.tile_bytes)
        bounded = [m.select(w, m.zero(), m.negate(x)) for w, x in zip(weak, total, strict=True)]
        inverse = _each(m.exp2, bounded)
        self.store_tile(self.part + _DIAGONAL, [_each(m.multiply, x, inverse) for x in keys])
        with m.when(self.part.equals(3)):
            far = [_each(m.multiply, x, parts[2]) for x in queries]
            self.store_tile(_FAR_QUERIES, far)
        with m.when(self.part.equals(0)):
            far = [_each(m.multiply, x, parts[1]) for x in keys]
            self.store_tile(_FAR_KEYS, far)
        return slow

    def store_tile(self, tile: IntLike, rows: Sequence[tuple[Any, Any]]) -> None:
        """This thread's words of a tile of 16 rows."""
        m = self.machine
        start = self.panel * (ROWS * 128) + tile * self.tile_bytes + self.tiles_at
        places = [word + start for word in self.words]
        for row, values in enumerate(rows):
            m.store_shared(places[row & 7] + 128 * row, [m.pack(*values)])

    def store_image(self, rows: Sequence[tuple[Any, Any]], weight: Any, at: int) -> None:
        """This thread's words of the queries or keys in the image, weighted further."""
        m, sizes = self.machine, self.sizes
        start = self.panel * (CHUNK * 128) + self.part * (ROWS * 128) + at
        places = [word + start for word in self.words]
        for row, values in enumerate(rows):
            word = m.pack(*_each(m.multiply, values, weight))
            offset = places[row & 7] + 128 * row
            m.store_global(self.image, self.block, sizes.image_bytes, offset, [word])

    # scores ----------------------------------------------------------------------------------

    def scores(self, blocks: Sequence[tuple[int, ...]]) -> list[Any]:
        """One block of 16 x 16 for each warp, zero above the diagonal."""
        left = self.among(blocks, 2) * self.tile_bytes
        right = self.among(blocks, 3) * self.tile_bytes
        found = self.product(left, right)
        # the diagonal of the block, from which on columns are zero
        diagonal = (self.among(blocks, 0) - self.among(blocks, 1)) * ROWS
        return self.where(lambda row, column: column < diagonal + row + 1, found, None)

    def among(self, blocks: Sequence[tuple[int, ...]], field: int) -> Int:
        """A field of the block of this warp."""
        m, value = self.machine, None
        for start in range(0, len(blocks), 8):
            code = sum(b[field] << (4 * i) for i, b in enumerate(blocks[start : start + 8]))
            code = code - (1 << 32) if code >> 31 else code
            part = (m.constant(code) >> ((self.warp & 7) * 4)) & 15
            if value is None:
                value = part
            else:
                value = Int(m, m.select(self.warp < start, value.value, part.value))
        assert value is not None
        return value

    def product(self, left: IntLike, right: IntLike) -> list[Any]:
        """Rows of one tile times rows of another: two tiles of 16 x 8."""
        m, lane = self.machine, self.lane
        row, unit = lane_row(lane, rows_first=True)
        lefts = [row * 128 + permuted(unit ^ (2 * i), row) + left for i in range(4)]
        row, unit = lane_row(lane, rows_first=False)
        rights = [row * 128 + permuted(unit ^ (2 * i), row) + right for i in range(4)]
        found = [[m.zero()] * 4, [m.zero()] * 4]
        for step in range(self.sizes.key // 16):
            offset = self.tiles_at + (step >> 2) * (ROWS * 128)
            a = m.load_matrices(lefts[step & 3] + offset, transpose=False)
            b = m.load_matrices(rights[step & 3] + offset, transpose=False)
            for half in range(2):
                found[half] = list(m.tensor_product(found[half], a, b[2 * half : 2 * half + 2]))
        return found[0] + found[1]

    def where(self, chosen: Any, values: Sequence[Any], others: Sequence[Any] | None) -> list[Any]:
        """Values of a 16 x 16 block where ``chosen(row, column)``, others elsewhere."""
        m, found = self.machine, []
        zero = m.zero()
        for i, value in enumerate(values):
            row = (self.lane >> 2) + 8 * (i >> 1 & 1)
            column = (self.lane & 3) * 2 + ((i & 1) + 8 * (i >> 2))
            other = zero if others is None else others[i]
            found.append(m.select(chosen(row, column), value, other))
        return found

    def halve(self, found: Sequence[Any]) -> list[Any]:
        """The blocks on the diagonal, by halving; other warps keep what they have."""
        m = self.machine
        weights = [_each(m.exp2, gate) for gate in self.gates()]
        queries, keys = self.rows_of(self.q), self.rows_of(self.k)
        scale = m.float(m.word(_bits(self.sizes.scale)))
        queries = [_each(lambda x: m.multiply(x, scale), row) for row in queries]
        tile = (self.warp & 3) * self.tile_bytes
        kept = list(found)
        for half in (0, 1, 2, 4, 8):
            m.synchronize()
            self.store_tile(self.part + _KEYS, keys if not half else _mixed(m, half, weights, queries, keys))
            if not half:
                self.store_tile(self.part + _QUERIES, queries)
            m.synchronize()
            left = tile + (_KEYS if half else _QUERIES) * self.tile_bytes
            product = self.product(left, tile + _KEYS * self.tile_bytes)
            kept = self.where(self.split(half), product, kept)
        return kept

    def split(self, half: int) -> Any:
        """Pairs of rows of a warp on the diagonal that a level of the halving separates."""

        def chosen(row: Int, column: Int) -> Int:
            across = row ^ column
            own = across.equals(0) if not half else (across >= half) & (across < 2 * half)
            return own & (column < row + 1) & (self.warp < 4)

        return chosen

    def store_scores(self, found: Sequence[Any], blocks: Sequence[tuple[int, ...]]) -> None:
        """A block of scores as bfloat16 to the tile of all."""
        m = self.machine
        row, unit = lane_row(self.lane, rows_first=True)
        row, unit = row + self.among(blocks, 0) * ROWS, unit + self.among(blocks, 1) * 2
        words = [m.pack(found[i], found[i + 1]) for i in range(0, 8, 2)]
        at = row * 128 + permuted(unit, row) + self.scores_at
        m.store_matrices(at, words, transpose=False)

    def copy_scores(self) -> None:
        """The scores to the image."""
        m, sizes, count = self.machine, self.sizes, threads(self.sizes)
        for start in range(0, SCORE_BYTES, 16 * count):
            place = m.thread() * 16 + start
            words = m.load_shared(place + self.scores_at, 4)
            offset = place + sizes.scores_at
            m.store_global(self.image, self.block, sizes.image_bytes, offset, words)


def _mixed(
    m: Machine,
    half: int,
    weights: Sequence[Any],
    queries: Sequence[Any],
    keys: Sequence[Any],
) -> list[Any]:
    """Rows of right halves as queries, those of left halves as keys, weighted up to the split."""
    rows: list[Any] = [None] * ROWS
    for split in range(half, ROWS, 2 * half):
        weight = weights[split]
        for row in range(split, split + half):
            weight = weight if row == split else _each(m.multiply, weight, weights[row])
            rows[row] = _each(m.multiply, queries[row], weight)
        rows[split - 1], weight = keys[split - 1], None
        for row in range(split - 2, split - half - 1, -1):
            after = weights[row + 1]
            weight = after if weight is None else _each(m.multiply, weight, after)
            rows[row] = _each(m.multiply, keys[row], weight)
    return rows


def _each(function: Any, *pairs: Any) -> tuple[Any, Any]:
    """A function of both channels."""
    low, high = (function(*values) for values in zip(*pairs, strict=True))
    return low, high


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def program(sizes: Sizes) -> Any:
    """The program for `launch` or `simulate`: (q, k, log gate) to images."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(sizes, machine, inputs, outputs[0]).run()

    return run

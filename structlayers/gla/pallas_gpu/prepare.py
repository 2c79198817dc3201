"""What the recurrence needs of a chunk beside its values: an image, for all chunks at once."""

from collections.abc import Callable, Sequence
from typing import Any, override

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
    Sizes,
    lane_row,
    permuted,
)

# Blocks of 16 x 16 scores: row and column of the block, tiles of queries and of keys. Those above
# the diagonal are zero, whatever is multiplied.
_BLOCKS = (
    *((i, i, QUERIES + i, DIAGONAL + i) for i in range(4)),
    (1, 0, QUERIES + 1, KEYS),
    (3, 2, QUERIES + 3, KEYS + 2),
    (2, 0, QUERIES + 2, FAR_KEYS),
    (2, 1, QUERIES + 2, KEYS + 1),
    (3, 0, FAR_QUERIES, FAR_KEYS),
    (3, 1, FAR_QUERIES, KEYS + 1),
    *((i, j, QUERIES, KEYS) for i in range(4) for j in range(i + 1, 4)),
)


# Threads of a block, in teams: so many that registers are shared by as many as hide latencies.
THREADS = 512


def teams(sizes: Sizes) -> int:
    """Chunks that a block takes, each with a team of its threads."""
    return THREADS // (2 * sizes.key)


def team_bytes(sizes: Sizes) -> int:
    """Scratch of a team: decays, tiles, scores."""
    return 16 * sizes.key + TILES * ROWS * sizes.key * 2 + SCORE_BYTES


def blocks(sizes: Sizes) -> int:
    """Size of the grid."""
    return -(-sizes.sequences * sizes.chunks // teams(sizes))


def shared_bytes(sizes: Sizes) -> int:
    """Scratch of a block."""
    return teams(sizes) * team_bytes(sizes)


class Program(Chunk):
    """The block's program, for the chunk of a team."""

    def __init__(self, sizes: Sizes, machine: Machine, inputs: Sequence[Any], image: Any):
        super().__init__(sizes, machine, inputs, team_bytes=team_bytes(sizes))
        self.image = image
        self.rows_at = self.panel * (CHUNK * 128) + self.part * (ROWS * 128)
        self.scores_at = self.tiles_at + TILES * self.tile_bytes
        warps = self.threads // 32
        self.rounds = [_BLOCKS[i : i + warps] for i in range(0, len(_BLOCKS), warps)]
        count, index = sizes.sequences * sizes.chunks, machine.cluster() * teams(sizes) + self.team
        # the last block may have more teams than chunks; first chunks come last, as the recurrence
        # starts with them
        self.locate(index.minimum(count - 1), from_end=True)

    def run(self) -> None:
        """The chunk."""
        m, sizes = self.machine, self.sizes
        weighed = self.weigh()
        with m.when(self.part.equals(0)):
            offset = self.pair * 8 + sizes.decay_at
            words = [m.bits(x) for x in weighed.whole]
            m.store_global(self.image, self.block, sizes.image_bytes, offset, words)
        self.synchronize()
        for row_blocks in self.rounds:
            row, column = self.among(row_blocks, 0), self.among(row_blocks, 1)
            self.store_block(self.scores_at, row, column, self.scores(row_blocks))
        self.synchronize()
        m.loop(0, weighed.slow, 1, self.halve)
        self.copy_scores()

    @override
    def took_query(self, row: int, values: Pair, known: Weighed) -> None:
        self.store_image(row, self.times(values, known.before))

    @override
    def took_key(self, row: int, values: Pair, known: Weighed) -> None:
        self.store_image(row, self.times(values, known.after), self.sizes.tile_bytes)

    def store_image(self, row: int, values: Pair, at: int = 0) -> None:
        """This thread's words of a row of the queries or keys in the image."""
        m, sizes = self.machine, self.sizes
        m.store_global(
            self.image,
            self.block,
            sizes.image_bytes,
            self.words[row & 7] + self.rows_at,
            [m.pack(*values)],
            displacement=at + 128 * row,
        )

    def among(self, blocks: Sequence[tuple[int, ...]], field: int) -> Int:
        """A field of the block of this warp."""
        return self.listed([block[field] for block in blocks], self.warp)

    def listed(self, values: Sequence[int], index: Int) -> Int:
        """An entry, below 16, of a list of up to 16."""
        m, found = self.machine, None
        for start in range(0, len(values), 8):
            code = sum(value << (4 * i) for i, value in enumerate(values[start : start + 8]))
            code = code - (1 << 32) if code >> 31 else code
            entry = (m.constant(code) >> ((index & 7) * 4)) & 15
            if found is not None:
                entry = Int(m, m.select(index < start, found.value, entry.value))
            found = entry
        assert found is not None
        return found

    def scores(self, blocks: Sequence[tuple[int, ...]]) -> list[Any]:
        """One block of 16 x 16 for each warp, zero above the diagonal."""
        left, right = self.among(blocks, 2), self.among(blocks, 3)
        found = self.product(left * self.tile_bytes, right * self.tile_bytes)
        below = (self.among(blocks, 0) - self.among(blocks, 1)) * ROWS
        return self.where(lambda row, column: column < below + row + 1, found)

    def operands(self, start: IntLike, *, rows_first: bool) -> list[Int]:
        """Where this lane finds 16 x 16 values in rows of a panel, by two units of the row."""
        row, unit = lane_row(self.lane, rows_first=rows_first)
        return [row * 128 + permuted(unit ^ (2 * i), row) + start for i in range(4)]

    def product(self, left: IntLike, right: IntLike) -> list[Any]:
        """Rows of one tile times rows of another."""
        m = self.machine
        lefts = self.operands(left, rows_first=True)
        rights = self.operands(right, rows_first=False)
        found = [[m.zero()] * 4, [m.zero()] * 4]
        for step in range(self.sizes.key // 16):
            offset = self.tiles_at + (step >> 2) * (ROWS * 128)
            a = m.load_matrices(lefts[step & 3] + offset, transpose=False)
            b = m.load_matrices(rights[step & 3] + offset, transpose=False)
            for half in range(2):
                found[half] = list(m.tensor_product(found[half], a, b[2 * half : 2 * half + 2]))
        return found[0] + found[1]

    def halve(self, index: Int, carried: Sequence[Any]) -> Sequence[Any]:
        """Rows of the blocks on the diagonal, by halving, by a team's first four warps."""
        del index
        m, part = self.machine, self.warp & 3
        weights = [each(m.exp2, gate) for gate in self.load_gates()]
        queries, keys = self.load_unweighted()
        self.count_kept(weights)
        self.store_tile(self.part + QUERIES, queries)
        self.store_tile(self.part + KEYS, keys)
        self.synchronize()
        kept, own = self.kept_rows(part), part * self.tile_bytes
        words = m.load_matrices(self.block_place(self.scores_at, part, part), transpose=False)
        found = [value for word in words for value in m.unpack(word)]

        def replace(left: int, right: int, chosen: Callable[[Int, Int], Int]) -> list[Any]:
            """Some pairs by products of two tiles."""
            product = self.product(own + left * self.tile_bytes, own + right * self.tile_bytes)
            return self.where(
                lambda row, column: chosen(row, column) & (row >= kept), product, found
            )

        found = replace(QUERIES, KEYS, lambda row, column: row.equals(column))
        for half in HALVES:
            self.store_level(weights, half)
            self.synchronize()

            def split(row: Int, column: Int, half: int = half) -> Int:
                return across(row, column, half) & (column < row)

            found = replace(DIAGONAL, DIAGONAL, split)
            self.synchronize()
        with m.when(self.warp < 4):
            self.store_block(self.scores_at, part, part, found)
        m.reconverge()
        self.synchronize()
        return carried

    def copy_scores(self) -> None:
        """The scores to the image."""
        m, sizes = self.machine, self.sizes
        for start in range(0, SCORE_BYTES, 16 * self.threads):
            place = self.thread * 16 + start
            words = m.load_shared(place + self.scores_at, 4)
            offset = place + sizes.scores_at
            m.store_global(self.image, self.block, sizes.image_bytes, offset, words)


def program(sizes: Sizes) -> Any:
    """The program for `launch` or `simulate`: (q, k, log gate) to images."""

    def run(machine: Machine, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        Program(sizes, machine, inputs, outputs[0]).run()

    return run

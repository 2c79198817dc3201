"""How one token of decoding is spread over the blocks and threads of a Hopper GPU."""

import math
from dataclasses import dataclass

# Columns of a tile, the best first (kernels.md has their times), and blocks of a cluster at most.
_COLUMNS, _LARGEST_CLUSTER = (64, 128, 32), 8
_THREADS = 128
MOST_QUERIES = 4  # whose sums of squares one message of the cluster holds


@dataclass(frozen=True)
class Plan:
    """A step of N sequences with G states `(K, V)`, each read by R query heads.

    Attributes:
        states: `N G`.
        queries: R.
        key: K.
        value: V.
        scale: of the outputs.
        gate_normalizer: tau, where gates come as logits; None where they come as logarithms.
        norm_epsilon: where outputs are normalized and gated; None where they are not.
        half: whether q, k, v and the outputs are bfloat16, else float32.
        half_gates: the same of the gates.
        columns: of a state in one block.
        threads: of a block.
        batch: most rows of a state that a thread loads before it uses the first.
    """

    states: int
    queries: int
    key: int
    value: int
    scale: float
    gate_normalizer: float | None
    norm_epsilon: float | None
    half: bool
    half_gates: bool
    columns: int
    threads: int = _THREADS
    batch: int = 8

    @property
    def tiles(self) -> int:
        """Blocks that share a state; a cluster, where they share the norm."""
        return self.value // self.columns

    @property
    def cluster_size(self) -> int:
        """Blocks of a cluster."""
        return 1 if self.norm_epsilon is None else self.tiles

    @property
    def clusters(self) -> int:
        """Size of the grid."""
        return self.states * self.tiles // self.cluster_size

    @property
    def lanes(self) -> int:
        """Threads on a row, each with four columns."""
        return self.columns // 4

    @property
    def groups(self) -> int:
        """Rows that the block has in hand at a time."""
        return self.threads // self.lanes

    @property
    def rows(self) -> int:
        """Rows of a thread."""
        return self.key // self.groups

    @property
    def batch_rows(self) -> int:
        """Rows of a batch: all batches have as many."""
        return math.gcd(self.batch, self.rows)

    @property
    def row_words(self) -> int:
        """Words of shared memory that a row takes: its decay, key and queries, in fours."""
        return -(-(2 + self.queries) // 4) * 4

    @property
    def slots_at(self) -> int:
        """Where the sums of squares of every block of the cluster lie, behind the barrier."""
        return 16

    @property
    def rows_at(self) -> int:
        """Where decays, keys and queries lie."""
        return self.slots_at + 16 * self.cluster_size

    @property
    def partial_at(self) -> int:
        """Where every group's part of the outputs lies."""
        return self.rows_at + 4 * self.row_words * self.key

    @property
    def outputs_at(self) -> int:
        """Where the outputs lie before the norm."""
        return self.partial_at + 16 * self.threads * self.queries

    @property
    def shared_bytes(self) -> int:
        """Scratch of a block."""
        return self.outputs_at + 4 * self.columns * self.queries


def tile_columns(queries: int, key: int, value: int) -> int:
    """Columns of a tile; 0 where no tile serves.

    Example:
        >>> tile_columns(1, 256, 512), tile_columns(2, 128, 1024), tile_columns(1, 128, 130)
        (64, 128, 0)
    """
    for columns in _COLUMNS:
        tiles, groups = value // columns, 4 * _THREADS // columns
        fits = value % columns == 0 and tiles <= _LARGEST_CLUSTER and key % groups == 0
        # at the end a thread has two columns of one query head
        if fits and queries * columns <= 2 * _THREADS:
            return columns
    return 0

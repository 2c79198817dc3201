"""Batches of fixed-length windows of a token file, by grain: shuffled, resumable, by process."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from experiments.data.files import DataError


class Windows:
    """Windows of T + 1 ids, T apart, so that T ids are predicted and none twice.

    What is left after the last whole window, fewer than T + 1 ids, is not used.

    Args:
        tokens: ids, `(n,)`.
        context: T.

    Raises:
        DataError: there is no whole window.

    Example:
        >>> windows = Windows(np.arange(8), 3)
        >>> len(windows), windows[1].tolist()
        (2, [3, 4, 5, 6])
    """

    def __init__(self, tokens: np.ndarray, context: int):
        self.tokens, self.context = tokens, context
        if len(self) < 1:
            raise DataError(
                f"the text has {len(tokens)} tokens; expected more than context = {context}"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, index: SupportsIndex) -> np.ndarray:
        """Window `index`, int32 `(T + 1,)`."""
        start = operator.index(index) * self.context
        return self.tokens[start : start + self.context + 1].astype(np.int32)


@dataclass(frozen=True)
class _Rows:
    """The rows of each step's batch that this process needs; a source of grain."""

    windows: Any
    batch: int
    steps: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> np.ndarray:
        return np.stack([self.windows[index * self.batch + row] for row in self.rows])


@dataclass(frozen=True)
class Batches:
    """The batches of a run: a function of the seed and the step alone.

    Each epoch goes through all windows in an order of its own. A batch is the same whatever the
    number of processes; each process reads the rows that its devices hold.

    Attributes:
        windows: of the text.
        sharding: of a batch `(A, B / A, T + 1)`, A steps of accumulation.
        batch: B, windows of a step, over all processes.
        accumulation: A.
        steps: of the run.
        seed: of the orders.
    """

    windows: Windows
    sharding: NamedSharding
    batch: int
    accumulation: int
    steps: int
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a batch."""
        return self.accumulation, self.batch // self.accumulation, self.windows.context + 1

    @cached_property
    def rows(self) -> list[int]:
        """Numbers of the rows that this process holds, from 0 to B - 1."""
        grid = np.arange(self.batch).reshape(self.shape[:2])
        places = self.sharding.addressable_devices_indices_map(self.shape).values()
        return sorted({int(row) for place in places for row in grid[(place or ())[:2]].ravel()})

    @cached_property
    def iterator(self) -> Any:
        """Grain's iterator over this process's rows of the batches; it has and takes a state."""
        order = grain.MapDataset.source(self.windows).seed(self.seed).shuffle().repeat()
        source = _Rows(order, self.batch, self.steps, self.rows)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        return iter(grain.MapDataset.source(source).to_iter_dataset(options))

    def next(self) -> jax.Array:
        """The next batch, int32 `(A, B / A, T + 1)`, on the devices."""
        local = next(self.iterator)
        place = {row: index for index, row in enumerate(self.rows)}
        grid = np.arange(self.batch).reshape(self.shape[:2])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            rows = grid[(index or ())[:2]]
            found = local[[place[int(row)] for row in rows.ravel()]]
            return found.reshape(*rows.shape, -1)

        return jax.make_array_from_callback(self.shape, self.sharding, part)

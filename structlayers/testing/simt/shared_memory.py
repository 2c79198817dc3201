"""Shared memory: who touched which word since the last barrier."""

from collections.abc import Sequence
from typing import Any, override

import numpy as np

from structlayers._core.simt.machine import Int, IntLike
from structlayers.testing.simt.threads import NEVER, RaceError, Threads


class SharedMemory(Threads):
    """Loads and stores of shared memory."""

    def _touch(self, words: np.ndarray, warps: np.ndarray, *, write: bool) -> None:
        epochs, owners = self._written
        for warp in np.unique(warps).tolist():
            own = words[warps == warp]
            banks = np.unique(own)
            self.wavefronts += int(np.bincount(banks % 32).max())
            self.least_wavefronts += -(-banks.size // 32)
            clash = (owners[own] != warp) & self._unordered(own, warp)
            if write:
                clash |= np.isin(own, banks[self._still_read(banks, warp)])
            if clash.any():
                word = own[clash][0]
                raise RaceError(f"byte {4 * word} of shared memory: warps {warp} and others")
        if write:
            self._require_still(words)
            self._written[0, words], self._written[1, words] = self._epoch, warps
            self._stored[words] = self._converged
            return
        if (epochs[words] == NEVER).any():
            word = words[epochs[words] == NEVER][0]
            raise ValueError(f"byte {4 * word} of shared memory is read but was never written")
        self._read[warps % self._block_warps, words] = self._epoch

    def _unordered(self, words: np.ndarray, warp: int) -> np.ndarray:
        """Where no barrier of both came between the last write and what the warp does now."""
        epochs, owners = self._written[:, words]
        column = np.where(owners < 0, self._block_warps - 2 - owners, owners % self._block_warps)
        return (epochs != NEVER) & (epochs >= self._ordered[warp, np.maximum(column, 0)])

    def _still_read(self, words: np.ndarray, warp: int) -> np.ndarray:
        """Where no barrier of both came between a read and what the warp does now."""
        late = self._read[:, words] >= self._ordered[warp, : self._block_warps, None]
        late[warp % self._block_warps] = False
        return late.any(0)

    def _read_by(self, words: np.ndarray, warp: int) -> None:
        """Words that a warp reads by tensor cores or copies, without a share of the banks' time."""
        before = self.wavefronts, self.least_wavefronts
        self._touch(words, np.full(words.shape, warp), write=False)
        self.wavefronts, self.least_wavefronts = before

    def _require_still(self, words: np.ndarray) -> None:
        """That no copy out and no product may still read these words."""
        if self._leaving[words].any():
            word = words[self._leaving[words] > 0][0]
            message = "is stored to while it is copied out or multiplied"
            raise RaceError(f"byte {4 * word} of shared memory {message}")

    def _words(self, address: IntLike, count: int) -> tuple[np.ndarray, np.ndarray]:
        addresses = (self._array(address) + self._base)[self._active]
        if (addresses % (4 * count)).any():
            raise ValueError(f"addresses must be multiples of {4 * count}, got {addresses}")
        words = addresses[:, None] // 4 + np.arange(count)
        return words, np.repeat((self._index >> 5)[self._active, None], count, axis=1)

    @override
    def load_shared(self, address: Int, words: int) -> list[Any]:
        index, warps = self._words(address, words)
        self._touch(index.ravel(), warps.ravel(), write=False)
        loaded = np.zeros((words, self.threads), np.uint32)
        loaded[:, self._active] = self._shared[index].T
        return list(loaded)

    @override
    def store_shared(self, address: Int, words: Sequence[Any]) -> None:
        index, warps = self._words(address, len(words))
        self._touch(index.ravel(), warps.ravel(), write=True)
        self._shared[index] = np.stack(words, axis=1)[self._active]

    def _halves(self, address: Int) -> np.ndarray:
        """Active threads' 16-bit places in shared memory; says who touches them."""
        addresses = (self._array(address) + self._base)[self._active]
        if (addresses % 2).any():
            raise ValueError(f"addresses must be multiples of 2, got {addresses}")
        return addresses // 2

    @override
    def load_shared_half(self, address: Int) -> Any:
        places = self._halves(address)
        self._touch(places // 2, self._index[self._active] >> 5, write=False)
        loaded = np.zeros(self.threads, np.uint32)
        loaded[self._active] = self._shared.view(np.uint16)[places]
        return loaded

    @override
    def store_shared_half(self, address: Int, word: Any) -> None:
        places = self._halves(address)
        self._touch(places // 2, self._index[self._active] >> 5, write=True)
        self._shared.view(np.uint16)[places] = word[self._active]

    @override
    def load_matrices(self, address: Int, *, transpose: bool) -> list[Any]:
        warps, rows = self._matrix_words(address)
        self._touch_matrices(warps, rows, write=False)
        halves = self._shared[rows].view(np.uint16)  # warp, matrix, row, column
        if transpose:
            halves = halves.swapaxes(2, 3)
        words = np.ascontiguousarray(halves).view(np.uint32)
        loaded = np.zeros((4, self.threads), np.uint32)
        loaded[:, self._active] = words.transpose(1, 0, 2, 3).reshape(4, -1)
        return list(loaded)

    @override
    def store_matrices(self, address: Int, words: Sequence[Any], *, transpose: bool) -> None:
        warps, rows = self._matrix_words(address)
        self._touch_matrices(warps, rows, write=True)
        values = np.stack(words)[:, self._active].reshape(4, -1, 8, 4).transpose(1, 0, 2, 3)
        halves = np.ascontiguousarray(values).view(np.uint16)
        if transpose:
            halves = halves.swapaxes(2, 3)
        self._shared[rows] = np.ascontiguousarray(halves).view(np.uint32)

    def _matrix_words(self, address: Int) -> tuple[np.ndarray, np.ndarray]:
        """Warps that take part, and words by warp, matrix, row and place in it."""
        active = self._active.reshape(-1, 32)
        if (active.any(1) != active.all(1)).any():
            raise ValueError("matrices are loaded and stored by whole warps only")
        addresses = address.value[self._active]
        if (addresses % 16).any():
            raise ValueError(f"rows of a matrix must start at multiples of 16, got {addresses}")
        first = (addresses + self._base[self._active]).reshape(-1, 4, 8, 1) // 4
        return np.flatnonzero(active.all(1)), first + np.arange(4)

    def _touch_matrices(self, warps: np.ndarray, rows: np.ndarray, *, write: bool) -> None:
        owners = np.repeat(warps, 32)
        for matrix in range(4):
            self._touch(rows[:, matrix].ravel(), owners, write=write)

    # device memory ---------------------------------------------------------------------------

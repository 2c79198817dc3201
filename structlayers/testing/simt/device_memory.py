"""Device memory, and copies from and to it that no thread waits for."""

from collections.abc import Sequence
from typing import Any, override

import numpy as np

from structlayers._core.simt.machine import Int, IntLike
from structlayers.testing.simt.barriers import Barrier, Load
from structlayers.testing.simt.shared_memory import SharedMemory
from structlayers.testing.simt.threads import BARRIERS, RaceError


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


class DeviceMemory(SharedMemory):
    """Loads and stores of arrays, asynchronous copies and their barriers."""

    @override
    def load_global(
        self,
        array: Any,
        offset: Int,
        words: int,
        row: IntLike = 0,
        pitch: int = 0,
        *,
        displacement: int = 0,
        constant: bool = True,
    ) -> list[Any]:
        loaded = np.zeros((words, self.threads), np.uint32)
        first = self._each(row) * pitch + self._each(offset) + displacement
        index = first[:, None] + np.arange(4 * words)
        loaded[:, self._active] = _bytes(array)[index].view(np.uint32).T
        return list(loaded)

    @override
    def store_global(
        self,
        array: Any,
        row: Int,
        pitch: int,
        offset: Int,
        words: Any,
        *,
        displacement: int = 0,
    ) -> None:
        first = row.value[self._active] * pitch + offset.value[self._active] + displacement
        index = first[:, None] + np.arange(4 * len(words))
        _bytes(array)[index] = np.stack(words, axis=1)[self._active].view(np.uint8)

    @override
    def load_global_half(self, array: Any, row: Int, pitch: int, offset: Int) -> Any:
        first = self._each(row) * pitch + self._each(offset)
        loaded = np.zeros(self.threads, np.uint32)
        loaded[self._active] = _bytes(array).view(np.uint16)[first // 2]
        return loaded

    @override
    def store_global_half(self, array: Any, row: Int, pitch: int, offset: Int, word: Any) -> None:
        first = self._each(row) * pitch + self._each(offset)
        _bytes(array).view(np.uint16)[first // 2] = word[self._active]

    @override
    def prefetch(self, array: Any, row: Int, pitch: int, offset: Int) -> None:
        self._within(array, self._each(row) * pitch + self._each(offset))

    @override
    def prefetch_bulk(self, array: Any, row: Int, pitch: int, size: int) -> None:
        self._within(array, self._each(row) * pitch + size - 1)

    @staticmethod
    def _within(array: np.ndarray, offsets: np.ndarray) -> None:
        if (offsets >= array.nbytes).any():
            raise ValueError(f"byte {offsets.max()} is not in the array of {array.nbytes}")

    # asynchronous copies ---------------------------------------------------------------------

    def _each(self, number: IntLike) -> np.ndarray:
        return self._array(number)[self._active]

    @override
    def barrier_init(self, address: int, arrivals: int = 1) -> None:
        for place in np.unique(self._each(address) + self._base[self._active]).tolist():
            own = (one // self._shared_bytes for one in self._barriers)
            index = sum(block == place // self._shared_bytes for block in own)
            if index >= BARRIERS:
                raise NotImplementedError(f"a block has at most {BARRIERS} barriers here")
            self._barriers[place] = Barrier(arrivals, index, np.zeros_like(self._ordered[0]))

    @override
    def barrier_expect(self, address: IntLike, size: IntLike) -> None:
        places = self._each(address) + self._base[self._active]
        warps = self._index[self._active] >> 5
        for place, count, warp in zip(places, self._each(size), warps, strict=True):
            self._arrive(self._barriers[place], int(warp), int(count))

    @override
    def barrier_arrive(self, address: IntLike) -> None:
        self.barrier_expect(address, 0)

    def _arrive(self, barrier: Barrier, warp: int, size: int) -> None:
        """An arrival after all that the warp did, and knew of, so far."""
        self._epoch += 1
        known = self._ordered[warp].copy()
        known[warp % self._block_warps] = self._epoch
        barrier.given = np.maximum(barrier.given, known)
        barrier.arrive(1, size)

    @override
    def barrier_wait(self, address: IntLike, parity: IntLike) -> None:
        places = self._each(address) + self._base[self._active]
        warps = self._index[self._active] >> 5
        for place, half in set(zip(places.tolist(), self._each(parity).tolist(), strict=True)):
            barrier, waiting = self._barriers[place], np.unique(warps[places == place])
            while self._lacks(barrier, half):
                self._pause(
                    f"a barrier waits for ever: phase {barrier.phases}, {barrier.due} bytes and "
                    f"{barrier.left} arrivals due"
                )
            self._epoch += 1
            self._ordered[waiting] = np.maximum(self._ordered[waiting], barrier.handed)
            self._ordered[waiting, self._block_warps + barrier.index] = self._epoch

    def _lacks(self, barrier: Barrier, half: int) -> bool:
        """Whether its phase of this parity has not completed, when all loads have arrived."""
        for loads, threads in barrier.loads:
            for load in loads:
                self._arrive_by_copy(load.words, load.values, barrier)
            barrier.arrive(threads)
        barrier.loads.clear()
        return barrier.due != 0 or barrier.phases % 2 == half

    def _deliver(self, target: int, values: np.ndarray, barrier: Barrier) -> None:
        self._arrive_by_copy(np.arange(target // 4, target // 4 + values.size), values, barrier)
        barrier.due -= 4 * values.size
        barrier.complete()

    def _arrive_by_copy(self, words: np.ndarray, values: np.ndarray, barrier: Barrier) -> None:
        """Words that all see who have waited for the barrier."""
        self._require_still(words)
        self._written[0, words], self._written[1, words] = self._epoch, -2 - barrier.index
        self._shared[words] = values

    @override
    def copy_in(
        self,
        address: Int,
        array: Any,
        row: Int,
        pitch: int,
        offset: Int,
        size: int,
        barrier: IntLike,
    ) -> None:
        sources = self._each(row) * pitch + self._each(offset)
        base = self._base[self._active]
        warps = self._index[self._active] >> 5
        targets, barriers = self._each(address) + base, self._each(barrier) + base
        for target, source, at, warp in zip(targets, sources, barriers, warps, strict=True):
            words = np.arange(target // 4, (target + size) // 4)
            if self._still_read(words, int(warp)).any():
                raise RaceError(f"byte {target} of shared memory is copied to while it is read")
            values = _bytes(array)[source : source + size].view(np.uint32)
            self._deliver(int(target), values, self._barriers[at])

    @override
    def store_to_peer(
        self, rank: Int, address: Int, words: Sequence[Any], barrier: IntLike
    ) -> None:
        self._require_cluster()
        peer = self._each(rank) * self._shared_bytes
        values = np.stack(words, axis=1)[self._active]
        places = zip(self._each(address) + peer, values, self._each(barrier) + peer, strict=True)
        for target, value, at in places:
            self._deliver(int(target), value, self._barriers[at])

    def _outgoing(self, source: int, size: int, thread: int) -> np.ndarray:
        words, warp = np.arange(source // 4, (source + size) // 4), thread >> 5
        ordered = (self._written[1, words] == warp) & (self._stored[words] < self._converged)
        if (self._unordered(words, warp) & ~ordered).any():
            raise RaceError(f"byte {source} is copied before the barrier after its store")
        self._copies_out.setdefault(thread, [[]])[-1].append(words)
        self._leaving[words] += 1
        return self._shared[words].copy()

    @override
    def load_ahead(self, address: Int, array: Any, row: Int, pitch: int, offset: Int) -> None:
        words, warps = self._words(address, 4)
        first = self._each(row) * pitch + self._each(offset)
        values = _bytes(array)[first[:, None] + np.arange(16)].view(np.uint32)
        self._loads[-1].append(Load(words, warps, values))

    @override
    def loads_arrive(self, address: IntLike) -> None:
        # as late as they may, when they are waited for; but now their places must be free
        if not self._active.any():
            return
        loads, self._loads[-1] = self._loads[-1], []
        for words, warps, _ in loads:
            self._touch(words.ravel(), warps.ravel(), write=True)
        threads = int(np.count_nonzero(self._active))
        self._barriers[self._uniform(address)].loads.append((loads, threads))

    @override
    def commit_loads(self) -> None:
        self._loads.append([])

    @override
    def wait_loads(self, pending: int) -> None:
        # as late as they may; the groups are counted as if all threads had the same
        while len(self._loads) - 1 > pending:
            for words, warps, values in self._loads.pop(0):
                self._touch(words.ravel(), warps.ravel(), write=True)
                self._shared[words] = values

    @override
    def release_to_copies(self) -> None:
        pass

    @override
    def copy_out(
        self, array: Any, row: Int, pitch: int, offset: Int, address: Int, size: int
    ) -> None:
        targets = self._each(row) * pitch + self._each(offset)
        sources = self._each(address) + self._base[self._active]
        threads = self._index[self._active]
        for target, source, thread in zip(targets, sources, threads, strict=True):
            words = self._outgoing(int(source), size, int(thread))
            _bytes(array)[target : target + size] = words.view(np.uint8)

    @override
    def commit_out(self) -> None:
        for thread in self._index[self._active]:
            self._copies_out.setdefault(int(thread), [[]]).append([])

    @override
    def wait_out(self, pending: int) -> None:
        # as late as they may
        for thread in self._index[self._active]:
            groups = self._copies_out.get(int(thread), [])
            while len(groups) - 1 > pending:
                for words in groups.pop(0):
                    self._leaving[words] -= 1
                    self._read_by(words, int(thread) >> 5)

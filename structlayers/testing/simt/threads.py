"""Threads of a block: their state, control flow and barriers."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, override

import numpy as np

from structlayers._core.simt.machine import Int, IntLike, Machine
from structlayers.testing.simt.barriers import Barrier, Load
from structlayers.testing.simt.teams import Team

NEVER = -1
# Barriers that a block may have.
BARRIERS = 64

_OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "min": np.minimum,
    "max": np.maximum,
    "div": np.floor_divide,
    "lt": np.less,
    "ge": np.greater_equal,
    "eq": np.equal,
}


class RaceError(AssertionError):
    """Two warps touched a word of shared memory, one of them writing, with no barrier between."""


class Threads(Machine):
    """All threads of a block, or of the blocks of a cluster; values are arrays over them."""

    def __init__(self, cluster: int, cluster_size: int, threads: int, shared_bytes: int):
        self.threads = threads * cluster_size
        self._cluster = cluster
        self._index = np.arange(self.threads)
        self._rank = self._index // threads
        self._base = self._rank * shared_bytes
        self._block_threads, self._shared_bytes = threads, shared_bytes
        self._active = np.ones(self.threads, bool)
        words = shared_bytes // 4 * cluster_size
        self._shared = np.zeros(words, np.uint32)
        # barriers so far; and the epoch before which accesses of a warp of the same block (second
        # index), and after those copies that a barrier counts, came before what a warp does now
        self._epoch, self._block_warps = 0, threads // 32
        self._ordered = np.zeros((self.threads // 32, self._block_warps + BARRIERS), np.int64)
        # epoch of the last write of every word, and its warp, or below -1 the barrier that counted
        # it; and the epoch of each warp's last read
        self._written = np.full((2, words), NEVER)
        self._read = np.full((self._block_warps, words), NEVER, np.int32)
        # how often warps had waited for their own threads at the last write of every word
        self._converged, self._stored = 0, np.zeros(words, np.int64)
        # by its first byte
        self._barriers: dict[int, Barrier] = {}
        # groups of loads; the last one is open
        self._loads: list[list[Load]] = [[]]
        # the team whose turn it is, and whether no team can go on
        self._team: Team | None = None
        self._stuck = False
        # of every thread, groups of words that copies out read; of every warpgroup, those that its
        # products do; and how many copies and products read a word
        self._copies_out: dict[int, list[list[np.ndarray]]] = {}
        self._products: dict[int, list[list[np.ndarray]]] = {}
        self._leaving = np.zeros(words, np.int64)
        self.wavefronts = 0
        self.least_wavefronts = 0

    @override
    def constant(self, value: int) -> Int:
        return Int(self, np.full(self.threads, value, np.int64))

    def _array(self, number: IntLike) -> np.ndarray:
        return (number if isinstance(number, Int) else self.constant(number)).value

    def _uniform(self, number: IntLike) -> int:
        values = np.unique(self._array(number)[self._active])
        if values.size != 1:
            raise ValueError(f"value must be the same in all threads, got {values}")
        return int(values[0])

    @override
    def integer(self, operation: str, left: Any, right: Any) -> Any:
        return _OPERATIONS[operation](left, right)

    @override
    def thread(self) -> Int:
        return Int(self, self._index % self._block_threads)

    @override
    def warp(self) -> Int:
        return Int(self, self._index % self._block_threads >> 5)

    @override
    def cluster(self) -> Int:
        return self.constant(self._cluster)

    @override
    def rank(self) -> Int:
        return Int(self, self._rank.copy())

    @override
    @contextlib.contextmanager
    def when(self, condition: Int) -> Generator[None]:
        before = self._active
        self._active = before & condition.value
        yield
        self._active = before

    @override
    def loop(
        self,
        start: IntLike,
        stop: IntLike,
        step: int,
        body: Callable[[Int, Sequence[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
    ) -> Sequence[Any]:
        if not self._active.any():
            return carried
        begin, end, before = self._uniform(start), self._array(stop), self._active
        for index in range(begin, int(end[before].max()), step):
            self._active = before & (index < end)
            found = body(self.constant(index), carried)
            # blocks of a cluster may take different numbers of rounds
            pairs = zip(found, carried, strict=True)
            carried = [np.where(self._active, new, old) for new, old in pairs]
        self._active = before
        return carried

    @override
    def synchronize(self) -> None:
        blocks = self._active.reshape(-1, self._block_threads)
        if (blocks.any(1) != blocks.all(1)).any():
            raise ValueError("a barrier of the block must be reached by all of its threads")
        self._order(self._block_threads)

    @override
    def synchronize_team(self, team: Int, threads: int) -> None:
        self._order(threads)

    def _order(self, threads: int) -> None:
        """What the warps of each active team did comes before what they do from now on."""
        self._epoch += 1
        count = threads // 32
        teams = np.flatnonzero(self._active.reshape(-1, threads).any(1))
        for first in teams * count:
            team = slice(first, first + count)
            self._ordered[team] = self._ordered[team].max(0)
            own = first % self._block_warps
            self._ordered[team, own : own + count] = self._epoch

    @override
    def synchronize_any(self, condition: Int, team: Int, threads: int) -> Int:
        self.synchronize_team(team, threads)
        holds = (condition.value & self._active).reshape(-1, threads).any(1)
        return Int(self, np.repeat(holds.astype(np.int64), threads))

    @override
    def teams(self, threads: int, bodies: Sequence[Callable[[], None]]) -> None:
        # each goes on until it would wait, so the first ones are ahead by as much as they may be
        before, number = self._active, self._index % self._block_threads // threads
        waiting = [(Team(body), before & (number == i)) for i, body in enumerate(bodies)]
        try:
            while waiting:
                start = self._epoch, len(waiting)
                for self._team, self._active in waiting:
                    self._team.proceed()
                waiting = [one for one in waiting if not one[0].ended]
                self._stuck = start == (self._epoch, len(waiting))
        finally:
            self._stuck = True
            for self._team, self._active in waiting:
                with contextlib.suppress(Exception):
                    if not self._team.ended:
                        self._team.proceed()
            self._team, self._active, self._stuck = None, before, False

    def _pause(self, message: str) -> None:
        """Lets the other teams go on first."""
        if self._team is None or self._stuck:
            raise ValueError(message)
        team, active = self._team, self._active
        team.pause()
        self._active = active

    @override
    def reconverge(self) -> None:
        self._converged += 1

    def _require_cluster(self) -> None:
        if self.threads == self._block_threads:
            raise RuntimeError("a launch without clusters has no instructions of clusters")

    @override
    def cluster_arrive(self) -> None:
        self._require_cluster()

    @override
    def cluster_wait(self) -> None:
        self._require_cluster()
        self.synchronize()

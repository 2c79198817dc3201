"""Runs the program of a GPU block with NumPy, all of its threads at once.

For kernels written against `structlayers._core.simt.machine.Machine`: checks their indexing and
arithmetic where there is no GPU, and finds what a GPU shows only now and then: shared memory read
before it is written, and accesses of different warps to one word that no barrier orders.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, override

import jax.numpy as jnp
import numpy as np

from structlayers._core.simt.machine import Int, IntLike, Machine

_NEVER = -1
_MANY = -2

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
_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "exp": np.exp,
    "log1p": np.log1p,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


class RaceError(AssertionError):
    """Two warps touched a word of shared memory, one of them writing, with no barrier between."""


def simulate(
    program: Callable[..., None],
    inputs: Sequence[np.ndarray],
    outputs: Sequence[Any],
    *,
    clusters: int,
    cluster_size: int,
    threads: int,
    shared_bytes: int,
) -> list[np.ndarray]:
    """Runs ``program(machine, inputs, outputs)`` for every cluster, one after another.

    Args:
        program: The block's program.
        inputs: Arrays; the program may write to them.
        outputs: Shapes and dtypes of the results, which start as NaN or the largest integer.
        clusters: Size of the grid.
        cluster_size: Blocks of a cluster; they run in step.
        threads: Of a block, a multiple of 32.
        shared_bytes: Scratch of a block.

    Returns:
        The results.

    Raises:
        RaceError: If accesses of different warps to a word are not ordered.
        ValueError: If a word of shared memory is read that nothing has written.
    """
    arrays = [np.ascontiguousarray(array) for array in inputs]
    results = [_poisoned(one) for one in outputs]
    for cluster in range(clusters):
        program(NumpyMachine(cluster, cluster_size, threads, shared_bytes), arrays, results)
    return results


def _poisoned(one: Any) -> np.ndarray:
    dtype = np.dtype(one.dtype)
    return np.frombuffer(bytearray(b"\xff" * math.prod(one.shape) * dtype.itemsize), dtype).reshape(
        one.shape
    )


def _toward_zero(values: np.ndarray) -> np.ndarray:
    """Float32 of float64, rounded as tensor cores round their sums."""
    nearest = values.astype(np.float32)
    beyond = np.abs(nearest) > np.abs(values)
    return np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest)


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


class NumpyMachine(Machine):
    """Executes instructions for all threads of one block; values are arrays over the threads."""

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
        self._epoch = 0
        # epoch and warp of the last write and the last read of every word
        self._written = np.full((2, words), _NEVER)
        self._read = np.full((2, words), _NEVER)
        # how often warps had waited for their own threads at the last write of every word
        self._converged, self._stored = 0, np.zeros(words, np.int64)
        # of every barrier, by its first byte: phases completed, bytes still to come, arrivals
        self._barriers: dict[int, list[int]] = {}
        # groups of words, the warps that asked for them, and values; the last one is open
        self._loads: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[]]
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
        self._epoch += 1

    @override
    def synchronize_team(self, team: Int, threads: int) -> None:
        self._epoch += 1

    @override
    def synchronize_any(self, condition: Int, team: Int, threads: int) -> Int:
        self.synchronize_team(team, threads)
        holds = (condition.value & self._active).reshape(-1, threads).any(1)
        return Int(self, np.repeat(holds.astype(np.int64), threads))

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

    # shared memory ---------------------------------------------------------------------------

    def _touch(self, words: np.ndarray, warps: np.ndarray, *, write: bool) -> None:
        for warp in np.unique(warps):
            banks = np.unique(words[warps == warp])
            self.wavefronts += int(np.bincount(banks % 32).max())
            self.least_wavefronts += -(-banks.size // 32)
        epochs, owners = self._written
        clash = (epochs[words] == self._epoch) & (owners[words] != warps)
        if write:
            epochs_read, owners_read = self._read
            clash |= (epochs_read[words] == self._epoch) & (owners_read[words] != warps)
        if clash.any():
            word = words[clash][0]
            raise RaceError(f"byte {4 * word} of shared memory: warps {warps[clash][0]} and others")
        if write:
            self._written[0, words], self._written[1, words] = self._epoch, warps
            self._stored[words] = self._converged
            return
        if (epochs[words] == _NEVER).any():
            word = words[epochs[words] == _NEVER][0]
            raise ValueError(f"byte {4 * word} of shared memory is read but was never written")
        first = self._read[0, words] != self._epoch
        same = self._read[1, words] == warps
        self._read[0, words] = self._epoch
        self._read[1, words] = np.where(first | same, warps, _MANY)

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
    def barrier_init(self, address: int) -> None:
        for place in np.unique(self._each(address) + self._base[self._active]):
            self._barriers[place] = [0, 0, 0]

    @override
    def barrier_expect(self, address: IntLike, size: IntLike) -> None:
        places = self._each(address) + self._base[self._active]
        for place, count in zip(places, self._each(size), strict=True):
            state = self._barriers[place]
            if state[2]:
                raise ValueError("a barrier is armed again before its phase has completed")
            state[1] += int(count)
            state[2] = 1
            self._complete(state)

    @staticmethod
    def _complete(state: list[int]) -> None:
        if state[2] and state[1] == 0:
            state[0], state[2] = state[0] + 1, 0

    @override
    def barrier_wait(self, address: IntLike, parity: IntLike) -> None:
        places = self._each(address) + self._base[self._active]
        for place, half in set(zip(places.tolist(), self._each(parity).tolist(), strict=True)):
            phases, awaited, _ = self._barriers[place]
            if awaited or phases % 2 == half:
                raise ValueError(f"a barrier waits for ever: phase {phases}, {awaited} bytes due")

    def _deliver(self, target: int, values: np.ndarray, barrier: int) -> None:
        words = np.arange(target // 4, target // 4 + values.size)
        self._written[0, words], self._written[1, words] = self._epoch - 1, _MANY
        self._shared[words] = values
        state = self._barriers[barrier]
        state[1] -= 4 * values.size
        self._complete(state)

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
        places = zip(self._each(address) + base, sources, self._each(barrier) + base, strict=True)
        for target, source, at in places:
            values = _bytes(array)[source : source + size].view(np.uint32)
            self._deliver(int(target), values, int(at))

    @override
    def store_to_peer(
        self, rank: Int, address: Int, words: Sequence[Any], barrier: IntLike
    ) -> None:
        self._require_cluster()
        peer = self._each(rank) * self._shared_bytes
        values = np.stack(words, axis=1)[self._active]
        places = zip(self._each(address) + peer, values, self._each(barrier) + peer, strict=True)
        for target, value, at in places:
            self._deliver(int(target), value, int(at))

    def _outgoing(self, source: int, size: int, warp: int) -> np.ndarray:
        words = np.arange(source // 4, (source + size) // 4)
        epochs, owners = self._written[:, words]
        ordered = (owners == warp) & (self._stored[words] < self._converged)
        if ((epochs == self._epoch) & ~ordered).any():
            raise RaceError(f"byte {source} is copied before the barrier after its store")
        return self._shared[words].copy()

    @override
    def load_ahead(self, address: Int, array: Any, row: Int, pitch: int, offset: Int) -> None:
        words, warps = self._words(address, 4)
        first = self._each(row) * pitch + self._each(offset)
        values = _bytes(array)[first[:, None] + np.arange(16)].view(np.uint32)
        self._loads[-1].append((words, warps, values))

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
        warps = self._index[self._active] >> 5
        for target, source, warp in zip(targets, sources, warps, strict=True):
            words = self._outgoing(int(source), size, int(warp))
            _bytes(array)[target : target + size] = words.view(np.uint8)

    @override
    def commit_out(self) -> None:
        pass

    @override
    def wait_out(self, pending: int) -> None:
        pass

    # arithmetic ------------------------------------------------------------------------------

    @override
    def zero(self) -> Any:
        return np.zeros(self.threads, np.float32)

    @override
    def word(self, value: int) -> Any:
        return np.full(self.threads, value, np.uint32)

    @override
    def number(self, value: float) -> Any:
        return np.full(self.threads, value, np.float32)

    @override
    def float(self, word: Any) -> Any:
        return word.astype(np.uint32).view(np.float32)

    @override
    def bits(self, value: Any) -> Any:
        return value.view(np.uint32)

    @override
    def integer_of(self, word: Any) -> Int:
        return Int(self, word.astype(np.uint32).view(np.int32).astype(np.int64))

    @override
    def word_of(self, value: Int) -> Any:
        return value.value.astype(np.uint32)

    @override
    def select(self, condition: Int, chosen: Any, other: Any) -> Any:
        return np.where(condition.value, chosen, other)

    @override
    def exp2(self, value: Any) -> Any:
        power = np.exp2(value)
        return np.where(power < np.finfo(np.float32).tiny, np.float32(0), power)

    @override
    def reciprocal(self, value: Any) -> Any:
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.float32(1) / value
        return np.where(np.abs(value) < np.finfo(np.float32).tiny, np.float32(np.inf), inverse)

    @override
    def warp_minimum(self, value: Int) -> Int:
        smallest = value.value.reshape(-1, 32).min(1)
        return Int(self, np.repeat(smallest, 32))

    @override
    def add(self, left: Any, right: Any) -> Any:
        return left + right

    @override
    def multiply(self, left: Any, right: Any) -> Any:
        return left * right

    @override
    def negate(self, value: Any) -> Any:
        return -value

    @override
    def unary(self, function: str, value: Any) -> Any:
        return _FUNCTIONS[function](value)

    @override
    def divide(self, left: Any, right: Any) -> Any:
        return left / right

    @override
    def fma(self, left: Any, right: Any, term: Any) -> Any:
        wide = left.astype(np.float64) * right.astype(np.float64) + term.astype(np.float64)
        return wide.astype(np.float32)

    @override
    def tensor_product(self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]) -> Any:
        a, b = (self._fragments(words) for words in (left, right))  # warp, register, g, t, half
        warps, depth = a.shape[0], len(right)
        matrix = np.zeros((warps, 2, 8, depth, 4, 2), np.float32)  # i/8, i%8, j/8, t, half
        for register in range(2 * depth):
            matrix[:, register % 2, :, register // 2] = a[:, register]
        columns = np.zeros((warps, depth, 4, 2, 8), np.float32)  # j/8, t, half, n
        for register in range(depth):
            columns[:, register] = b[:, register].transpose(0, 2, 3, 1)
        product = matrix.reshape(warps, 16, -1) @ columns.reshape(warps, -1, 8)
        tiles = product.reshape(warps, 2, 8, 4, 2)  # i/8, g, t, half
        return [
            acc[2 * i + half] + tiles[:, i, :, :, half].reshape(-1)
            for i in range(2)
            for half in range(2)
        ]

    @override
    def tensor_product_tf32(
        self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]
    ) -> Any:
        a, b = (self._truncated(words) for words in (left, right))  # warp, register, g, t
        matrix = a.reshape(-1, 2, 2, 8, 4).transpose(0, 2, 3, 1, 4).reshape(-1, 16, 8)
        product = (matrix @ b.swapaxes(2, 3).reshape(-1, 8, 8)).reshape(-1, 2, 8, 4, 2)
        return [
            _toward_zero(acc[2 * i + half] + product[:, i, :, :, half].reshape(-1))
            for i in range(2)
            for half in range(2)
        ]

    @staticmethod
    def _truncated(words: Sequence[Any]) -> np.ndarray:
        stacked = np.stack(words, axis=1).astype(np.uint32) & np.uint32(0xFFFFE000)
        values = stacked.view(np.float32).astype(np.float64)
        return values.reshape(-1, 8, 4, len(words)).transpose(0, 3, 1, 2)

    @override
    def round_tf32(self, value: Any, *, again: bool = False) -> Any:
        del again
        words = value.astype(np.float32).view(np.uint32)
        rounded = (words + (words >> 13 & 1) + np.uint32(0xFFF)) & np.uint32(0xFFFFE000)
        return np.where(np.isfinite(value), rounded.view(np.float32), value)

    def _fragments(self, words: Sequence[Any]) -> np.ndarray:
        stacked = np.ascontiguousarray(np.stack(words, axis=1).astype(np.uint32))
        values = stacked.view(jnp.bfloat16).astype(np.float32)
        return values.reshape(-1, 8, 4, len(words), 2).transpose(0, 3, 1, 2, 4)

    @override
    def warpgroup_begin(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    @override
    def warpgroup_product(
        self, acc: Sequence[Any], left: Sequence[Any], right: Int, *, transpose: bool, panel: int
    ) -> list[Any]:
        columns, depth = np.arange(2 * len(acc)), np.arange(16)[:, None]
        if transpose:
            places = 128 * depth + columns // 64 * panel + 2 * (columns % 64)
        else:
            places = 128 * columns + 2 * depth
        starts, bases = right.value[::128], self._base[::128]  # of every warpgroup
        places = starts[:, None, None] + places
        # blocks start at multiples of 1024 bytes on a GPU, not always here
        places = bases[:, None, None] + (places ^ ((places >> 7 & 7) << 4))
        words = np.unique(places // 4, axis=-1)
        for group, used in enumerate(words):
            for warp in range(4 * group, 4 * group + 4):
                self._read_by(np.unique(used), warp)
        operand = self._shared.view(jnp.bfloat16)[places // 2].astype(np.float32)
        fragments = self._fragments(left)  # warp, register, g, t, half
        matrix = np.zeros((len(fragments), 2, 8, 2, 4, 2), np.float32)  # i/8, i%8, j/8, t, half
        for register in range(4):
            matrix[:, register % 2, :, register // 2] = fragments[:, register]
        matrix = matrix.reshape(len(starts), 64, 16)
        product = (matrix @ operand).reshape(-1, 2, 8, len(columns) // 8, 4, 2)
        # warp, i/8, g, tile, t, half
        return [
            acc[4 * tile + 2 * i + half] + product[:, i, :, tile, :, half].reshape(-1)
            for tile in range(len(columns) // 8)
            for i in range(2)
            for half in range(2)
        ]

    def _read_by(self, words: np.ndarray, warp: int) -> None:
        """Words that a warp reads by tensor cores, without a share of the banks' time."""
        before = self.wavefronts, self.least_wavefronts
        self._touch(words, np.full(words.shape, warp), write=False)
        self.wavefronts, self.least_wavefronts = before

    @override
    def warpgroup_commit(self) -> None:
        pass

    @override
    def warpgroup_wait(self, pending: int, values: Sequence[Any]) -> list[Any]:
        return list(values)

    @override
    def unpack(self, word: Any) -> tuple[Any, Any]:
        word = word.astype(np.uint32)
        return (word << np.uint32(16)).view(np.float32), (word & 0xFFFF0000).view(np.float32)

    @override
    def pack(self, low: Any, high: Any) -> Any:
        pairs = np.stack([low, high], axis=1).astype(jnp.bfloat16)
        return np.ascontiguousarray(pairs).view(np.uint32)[:, 0]

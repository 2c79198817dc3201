"""Arithmetic of threads, and of tensor cores."""

from collections.abc import Callable, Sequence
from typing import Any, override

import jax.numpy as jnp
import numpy as np

from structlayers._core.simt.machine import Int
from structlayers.testing.simt.shared_memory import SharedMemory

_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "exp": np.exp,
    "log1p": np.log1p,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


def _toward_zero(values: np.ndarray) -> np.ndarray:
    """Float32 of float64, rounded as tensor cores round their sums."""
    nearest = values.astype(np.float32)
    beyond = np.abs(nearest) > np.abs(values)
    return np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest)


class Arithmetic(SharedMemory):
    """Values of threads, and products of warps and warpgroups."""

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
    def shuffle_xor(self, value: Any, mask: int) -> Any:
        active = self._active.reshape(-1, 32)
        if (active.any(1) != active.all(1)).any():
            raise ValueError("values are exchanged by whole warps only")
        return value[self._index ^ mask]

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
        self,
        acc: Sequence[Any],
        left: Sequence[Any] | Int,
        right: Int,
        *,
        transpose: bool,
        panel: int,
        left_transpose: bool = False,
    ) -> list[Any]:
        columns = np.arange(2 * len(acc))
        operand = self._operand(right, columns, transpose, panel)
        if isinstance(left, Int):
            matrix = self._operand(left, np.arange(64), left_transpose).swapaxes(1, 2)
        else:
            fragments = self._fragments(left)  # warp, register, g, t, half
            matrix = np.zeros((len(fragments), 2, 8, 2, 4, 2), np.float32)  # i/8, i%8, j/8, t, half
            for register in range(4):
                matrix[:, register % 2, :, register // 2] = fragments[:, register]
            matrix = matrix.reshape(len(operand), 64, 16)
        product = (matrix @ operand).reshape(-1, 2, 8, len(columns) // 8, 4, 2)
        # warp, i/8, g, tile, t, half
        return [
            acc[4 * tile + 2 * i + half] + product[:, i, :, tile, :, half].reshape(-1)
            for tile in range(len(columns) // 8)
            for i in range(2)
            for half in range(2)
        ]

    def _operand(
        self, address: Int, columns: np.ndarray, transpose: bool, panel: int = 0
    ) -> np.ndarray:
        """16 rows by these columns of a right operand of every warpgroup."""
        depth = np.arange(16)[:, None]
        if transpose:
            places = 128 * depth + columns // 64 * panel + 2 * (columns % 64)
        else:
            places = 128 * columns + 2 * depth
        starts, bases = address.value[::128], self._base[::128]
        places = starts[:, None, None] + places
        # blocks start at multiples of 1024 bytes on a GPU, not always here
        places = bases[:, None, None] + (places ^ ((places >> 7 & 7) << 4))
        operand = np.zeros(places.shape, np.float32)
        for group in self._groups():
            words = np.unique(places[group] // 4)
            self._leaving[words] += 1
            self._products.setdefault(group, [[]])[-1].append(words)
            for warp in range(4 * group, 4 * group + 4):
                self._read_by(words, warp)
            operand[group] = self._shared.view(jnp.bfloat16)[places[group] // 2]
        return operand

    def _groups(self) -> list[int]:
        """Warpgroups that are active."""
        return np.flatnonzero(self._active.reshape(-1, 128).any(1)).tolist()

    @override
    def warpgroup_commit(self) -> None:
        for group in self._groups():
            self._products.setdefault(group, [[]]).append([])

    @override
    def warpgroup_wait(self, pending: int, values: Sequence[Any]) -> list[Any]:
        # as late as they may
        for group in self._groups():
            started = self._products.get(group, [])
            while len(started) - 1 > pending:
                for words in started.pop(0):
                    self._leaving[words] -= 1
                    for warp in range(4 * group, 4 * group + 4):
                        self._read[warp % self._block_warps, words] = self._epoch
        return list(values)

    @override
    def unpack(self, word: Any) -> tuple[Any, Any]:
        word = word.astype(np.uint32)
        return (word << np.uint32(16)).view(np.float32), (word & 0xFFFF0000).view(np.float32)

    @override
    def pack(self, low: Any, high: Any) -> Any:
        pairs = np.stack([low, high], axis=1).astype(jnp.bfloat16)
        return np.ascontiguousarray(pairs).view(np.uint32)[:, 0]

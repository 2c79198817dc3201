"""The instructions that a block's program may use.

A program is a Python function of a `Machine`: its loops over constants unroll, and every value it
handles is per thread. Integers are `Int`, with Python's operators; a value of 32 bits (two
bfloat16, or one float32) and an accumulator in float32 are opaque. Addresses of shared memory are
bytes from the start of the block's scratch; addresses of device memory are pairs of an array and
a byte offset.

Fragments of the tensor-core product are those of PTX's `mma.sync.m16n8k16`: with lane
``4 g + t``, the left operand ``(16, 16)`` has rows ``g, g+8`` and columns ``2t, 2t+1`` (then the
same at ``+8``) in four registers, the right one ``(16, 8)`` has rows ``2t, 2t+1`` and ``+8`` of
column ``g`` in two, the result ``(16, 8)`` has columns ``2t, 2t+1`` of rows ``g`` and ``g+8``.
The halves of both operands before the ``+8`` are those of ``m16n8k8``.
"""

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any


class Int:
    """A 32-bit integer of each thread."""

    __slots__ = ("machine", "value")

    def __init__(self, machine: "Machine", value: Any):
        self.machine = machine
        self.value = value

    def _binary(self, operation: str, other: "Int | int") -> "Int":
        if (
            isinstance(other, int)
            and other == 0
            and operation in ("add", "xor", "or", "shl", "shr")
        ):
            return self
        if isinstance(other, int) and other == 1 and operation == "mul":
            return self
        other = other if isinstance(other, Int) else self.machine.constant(other)
        return Int(self.machine, self.machine.integer(operation, self.value, other.value))

    def __add__(self, other: "Int | int") -> "Int":
        return self._binary("add", other)

    def __radd__(self, other: "Int | int") -> "Int":
        return self._binary("add", other)

    def __sub__(self, other: "Int | int") -> "Int":
        return self._binary("sub", other)

    def __mul__(self, other: "Int | int") -> "Int":
        return self._binary("mul", other)

    def __rmul__(self, other: "Int | int") -> "Int":
        return self._binary("mul", other)

    def __and__(self, other: "Int | int") -> "Int":
        return self._binary("and", other)

    def __or__(self, other: "Int | int") -> "Int":
        return self._binary("or", other)

    def __xor__(self, other: "Int | int") -> "Int":
        return self._binary("xor", other)

    def __lshift__(self, other: "Int | int") -> "Int":
        return self._binary("shl", other)

    def __rshift__(self, other: "Int | int") -> "Int":
        return self._binary("shr", other)

    def __lt__(self, other: "Int | int") -> "Int":
        return self._binary("lt", other)

    def __ge__(self, other: "Int | int") -> "Int":
        return self._binary("ge", other)

    def minimum(self, other: "Int | int") -> "Int":
        """The smaller of both."""
        return self._binary("min", other)

    def maximum(self, other: "Int | int") -> "Int":
        """The larger of both."""
        return self._binary("max", other)

    def divide(self, other: int) -> "Int":
        """Quotient, rounded down; neither may be negative."""
        return self._binary("div", other)

    def modulo(self, other: int) -> "Int":
        """Remainder; neither may be negative."""
        if other & (other - 1) == 0:
            return self & (other - 1)
        return self - self.divide(other) * other

    def equals(self, other: "Int | int") -> "Int":
        """Whether both are equal, as a condition for `Machine.when`."""
        return self._binary("eq", other)


type IntLike = Int | int


class Machine(abc.ABC):
    """What executes or emits the instructions of a block's program."""

    @abc.abstractmethod
    def constant(self, value: int) -> Int:
        """The same integer in every thread."""

    @abc.abstractmethod
    def integer(self, operation: str, left: Any, right: Any) -> Any:
        """add, sub, mul, and, or, xor, shl, shr (unsigned), min, max; conditions: lt, ge, eq."""

    @abc.abstractmethod
    def thread(self) -> Int:
        """Index of the thread in its block."""

    @abc.abstractmethod
    def warp(self) -> Int:
        """Index of the thread's warp in the block."""

    @abc.abstractmethod
    def cluster(self) -> Int:
        """Index of the block's cluster in the grid."""

    @abc.abstractmethod
    def rank(self) -> Int:
        """Index of the block in its cluster."""

    def lane(self) -> Int:
        """Index of the thread in its warp."""
        return self.thread() & 31

    @abc.abstractmethod
    def when(self, condition: Int) -> contextlib.AbstractContextManager[None]:
        """Threads for which the condition does not hold skip what follows."""

    @abc.abstractmethod
    def loop(
        self,
        start: IntLike,
        stop: IntLike,
        step: int,
        body: Callable[[Int, Sequence[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
    ) -> Sequence[Any]:
        """Runs ``carried = body(index, carried)``; the bounds are the same in a warp's threads."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Waits for all threads of the block; orders their accesses to shared memory."""

    @abc.abstractmethod
    def synchronize_team(self, team: Int, threads: int) -> None:
        """The same for consecutive threads of the block, whole warps, numbered team by team."""

    @abc.abstractmethod
    def synchronize_any(self, condition: Int, team: Int, threads: int) -> Int:
        """`synchronize_team`; 1 if the condition holds in any thread of the team, else 0."""

    @abc.abstractmethod
    def teams(self, threads: int, bodies: Sequence[Callable[[], None]]) -> None:
        """Runs a function each for teams of so many threads, whole warps, which are the block.

        They run beside each other, and wait for each other at barriers in shared memory.
        """

    @abc.abstractmethod
    def reconverge(self) -> None:
        """Waits for the threads of the warp, after a condition that may have parted them."""

    @abc.abstractmethod
    def cluster_arrive(self) -> None:
        """Tells the cluster that this thread has come so far, not what it stored."""

    @abc.abstractmethod
    def cluster_wait(self) -> None:
        """Waits until all threads of the cluster have arrived."""

    # shared memory ---------------------------------------------------------------------------

    @abc.abstractmethod
    def load_shared(self, address: Int, words: int) -> list[Any]:
        """Loads 1, 2 or 4 words of 32 bits."""

    @abc.abstractmethod
    def store_shared(self, address: Int, words: Sequence[Any]) -> None:
        """Stores 1, 2 or 4 words of 32 bits."""

    @abc.abstractmethod
    def load_shared_half(self, address: Int) -> Any:
        """Loads 16 bits as a word whose upper half is zero."""

    @abc.abstractmethod
    def store_shared_half(self, address: Int, word: Any) -> None:
        """Stores the lower half of a word."""

    @abc.abstractmethod
    def load_matrices(self, address: Int, *, transpose: bool) -> list[Any]:
        """Four 8x8 matrices of 16-bit values; lane l gives the address of row l%8 of matrix l/8.

        Lane ``4 g + t`` receives columns ``2t, 2t+1`` of row g of each; transposed, rows
        ``2t, 2t+1`` of column g.
        """

    @abc.abstractmethod
    def store_matrices(self, address: Int, words: Sequence[Any], *, transpose: bool) -> None:
        """The reverse of `load_matrices`."""

    @abc.abstractmethod
    def store_to_peer(
        self, rank: Int, address: Int, words: Sequence[Any], barrier: IntLike
    ) -> None:
        """Stores four words in the block of this rank; its barrier counts their 16 bytes."""

    # device memory ---------------------------------------------------------------------------

    @abc.abstractmethod
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
        """Loads 1, 2 or 4 words at byte ``row * pitch + offset``, computed in 64 bits.

        The displacement is added to it, at no cost below 2**23. Of an array
        that the kernel writes too, the words are not `constant`.
        """

    @abc.abstractmethod
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
        """Stores 1, 2 or 4 words where `load_global` finds them."""

    @abc.abstractmethod
    def load_global_half(self, array: Any, row: Int, pitch: int, offset: Int) -> Any:
        """Loads 16 bits from ``row * pitch + offset`` as a word whose upper half is zero."""

    @abc.abstractmethod
    def store_global_half(self, array: Any, row: Int, pitch: int, offset: Int, word: Any) -> None:
        """Stores the lower half of a word where `load_global_half` finds it."""

    @abc.abstractmethod
    def prefetch(self, array: Any, row: Int, pitch: int, offset: Int) -> None:
        """Brings the 128 bytes around ``row * pitch + offset`` into the L2."""

    @abc.abstractmethod
    def prefetch_bulk(self, array: Any, row: Int, pitch: int, size: int) -> None:
        """Brings ``size`` bytes from ``row * pitch`` on into the L2; by one thread."""

    # asynchronous copies ---------------------------------------------------------------------

    @abc.abstractmethod
    def barrier_init(self, address: int, arrivals: int = 1) -> None:
        """Makes the 8 bytes at address a barrier that so many arrivals and their bytes complete."""

    @abc.abstractmethod
    def barrier_expect(self, address: IntLike, size: IntLike) -> None:
        """Arrives, and lets the barrier wait for so many bytes of `copy_in` or `store_to_peer`."""

    @abc.abstractmethod
    def barrier_arrive(self, address: IntLike) -> None:
        """Arrives: who waits for the phase sees what this thread, or its warp so far, has done."""

    @abc.abstractmethod
    def barrier_wait(self, address: IntLike, parity: IntLike) -> None:
        """Waits for the phase of this parity to complete."""

    @abc.abstractmethod
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
        """Copies ``size`` bytes from ``row * pitch + offset`` of the array to shared memory."""

    @abc.abstractmethod
    def load_ahead(self, address: Int, array: Any, row: Int, pitch: int, offset: Int) -> None:
        """Copies 16 bytes of an array to shared memory, as a part of this thread's next group."""

    @abc.abstractmethod
    def loads_arrive(self, address: IntLike) -> None:
        """Arrives at a barrier for this thread when all of its `load_ahead` so far have.

        Who waits for the barrier sees them. For loads that are in no group of `commit_loads`.
        """

    @abc.abstractmethod
    def commit_loads(self) -> None:
        """Makes a group of this thread's `load_ahead` since the last one."""

    @abc.abstractmethod
    def wait_loads(self, pending: int) -> None:
        """Waits until all but so many of this thread's groups have arrived, for this thread."""

    @abc.abstractmethod
    def release_to_copies(self) -> None:
        """Lets copies out after the next barrier read what this thread has stored."""

    @abc.abstractmethod
    def copy_out(
        self, array: Any, row: Int, pitch: int, offset: Int, address: Int, size: int
    ) -> None:
        """Copies ``size`` bytes of shared memory to ``row * pitch + offset`` of the array."""

    @abc.abstractmethod
    def commit_out(self) -> None:
        """Makes a group of this thread's `copy_out` since the last one."""

    @abc.abstractmethod
    def wait_out(self, pending: int) -> None:
        """Waits until all but so many of this thread's groups have read their shared memory."""

    # arithmetic ------------------------------------------------------------------------------

    @abc.abstractmethod
    def zero(self) -> Any:
        """A float32 zero."""

    @abc.abstractmethod
    def word(self, value: int) -> Any:
        """A word of 32 bits."""

    @abc.abstractmethod
    def number(self, value: float) -> Any:
        """The same float32 in every thread."""

    @abc.abstractmethod
    def float(self, word: Any) -> Any:
        """A word read as float32."""

    @abc.abstractmethod
    def bits(self, value: Any) -> Any:
        """A float32 as a word."""

    @abc.abstractmethod
    def integer_of(self, word: Any) -> Int:
        """A word read as an integer with a sign."""

    @abc.abstractmethod
    def word_of(self, value: Int) -> Any:
        """An integer as a word."""

    @abc.abstractmethod
    def select(self, condition: Int, chosen: Any, other: Any) -> Any:
        """One of two words, or of two float32."""

    @abc.abstractmethod
    def exp2(self, value: Any) -> Any:
        """``2 ** value`` of a float32, to two units in the last place; 0 below 2**-126."""

    @abc.abstractmethod
    def reciprocal(self, value: Any) -> Any:
        """``1 / value`` of a float32, to one unit in the last place; infinite below 2**-126."""

    @abc.abstractmethod
    def warp_minimum(self, value: Int) -> Int:
        """The smallest of the integers of a warp's threads, all of which take part."""

    @abc.abstractmethod
    def shuffle_xor(self, value: Any, mask: int) -> Any:
        """The float32 of the lane whose index differs in these bits; all lanes take part."""

    @abc.abstractmethod
    def add(self, left: Any, right: Any) -> Any:
        """Sum of two float32."""

    @abc.abstractmethod
    def multiply(self, left: Any, right: Any) -> Any:
        """Product of two float32."""

    @abc.abstractmethod
    def negate(self, value: Any) -> Any:
        """A float32 with its sign changed."""

    @abc.abstractmethod
    def unary(self, function: str, value: Any) -> Any:
        """abs, exp, log1p or rsqrt of a float32."""

    @abc.abstractmethod
    def divide(self, left: Any, right: Any) -> Any:
        """Quotient of two float32."""

    @abc.abstractmethod
    def fma(self, left: Any, right: Any, term: Any) -> Any:
        """``left * right + term`` in float32, rounded once."""

    @abc.abstractmethod
    def tensor_product(self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]) -> Any:
        """``acc + left @ right``, bfloat16 operands, float32 sums; see the module's docstring.

        Operands of four and two registers, or the first halves of both, over 8 values.
        """

    @abc.abstractmethod
    def tensor_product_tf32(
        self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]
    ) -> Any:
        """``acc + left @ right`` over 8 values: PTX's `mma.sync.m16n8k8` of TF32, float32 sums.

        Operands are words of float32, whose last 13 bits are not seen. Sums are rounded towards
        zero, so long chains of them lose more than those of float32. With lane ``4 g + t``, the
        left one `(16, 8)` has rows ``g, g+8`` of column t (then of t+4) in four registers, the
        right one `(8, 8)` rows ``t, t+4`` of column g in two.
        """

    @abc.abstractmethod
    def round_tf32(self, value: Any, *, again: bool = False) -> Any:
        """A float32 rounded to the nearest TF32, 10 bits of mantissa, ties to even.

        By default compilers may round once for many places, before a loop for example, and keep
        the result in a register; `again` has it done where it stands.
        """

    @abc.abstractmethod
    def warpgroup_begin(self, values: Sequence[Any]) -> list[Any]:
        """What products of a warpgroup have in registers, results and left operands: made so far.

        Float32 or words; only after this may a `warpgroup_product` take them.
        """

    @abc.abstractmethod
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
        """Starts ``acc + left @ right`` for the 128 threads of a warpgroup: PTX's `wgmma`.

        Warp w has rows 16 w and on of the left operand `(64, 16)`, and of the result `(64, N)`, in
        the registers of `tensor_product`, tile after tile of 8 columns. The right operand
        `(16, N)`, bfloat16, is in shared memory: rows of 128 bytes whose units of 16 bytes are
        permuted by ``unit ^ (row % 8)``, in panels that start at multiples of 1024 bytes.

        Args:
            acc: N / 2 float32, N = 16, 32, ... 256.
            left: four words, or the address of its first row in shared memory, where it stands as
                a right operand of 64 columns does.
            right: address of its first row; every row is a column of the operand, 16 of the 64
                values of the row from the address on. Transposed, it has 16 rows, of the operand.
            transpose: which of both.
            panel: bytes from one panel of 64 columns to the next, if transposed.
            left_transpose: whether a left operand in shared memory is transposed.
        """

    @abc.abstractmethod
    def warpgroup_commit(self) -> None:
        """Makes a group of the products started since the last one."""

    @abc.abstractmethod
    def warpgroup_wait(self, pending: int, values: Sequence[Any]) -> list[Any]:
        """These results of products, when all but so many groups are done."""

    @abc.abstractmethod
    def unpack(self, word: Any) -> tuple[Any, Any]:
        """The two bfloat16 of a word as float32."""

    @abc.abstractmethod
    def pack(self, low: Any, high: Any) -> Any:
        """Two float32 rounded to nearest bfloat16, in one word."""

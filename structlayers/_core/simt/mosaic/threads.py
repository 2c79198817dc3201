"""Threads of a block: constants, control flow and barriers, as MLIR and PTX."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, override

from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, memref, scf
from jax.experimental.mosaic.gpu import utils as mosaic

from structlayers._core.simt.machine import Int, IntLike, Machine

_OPERATIONS = {
    "add": arith.addi,
    "sub": arith.subi,
    "mul": arith.muli,
    "and": arith.andi,
    "or": arith.ori,
    "xor": arith.xori,
    "shl": arith.shli,
    "shr": arith.shrui,
    "min": arith.minsi,
    "max": arith.maxsi,
    "div": arith.divui,
}
_CONDITIONS = {
    "lt": arith.CmpIPredicate.slt,
    "ge": arith.CmpIPredicate.sge,
    "eq": arith.CmpIPredicate.eq,
}
_VECTOR = {1: "", 2: ".v2", 4: ".v4"}


class Threads(Machine):
    """Emits instructions at the current insertion point."""

    def __init__(self, shared: ir.Value, threads: int, cluster_size: int):
        self.threads, self.cluster_size = threads, cluster_size
        self._i32 = ir.IntegerType.get_signless(32)
        self._i64 = ir.IntegerType.get_signless(64)
        self._f32 = ir.F32Type.get()
        self._shared = llvm.ptrtoint(self._i32, mosaic.memref_ptr(shared))

    def _asm(self, text: str, *arguments: Any, result: Any = None, effects: bool = True) -> Any:
        return mosaic.inline_ptx(
            text, *arguments, result_types=result, has_side_effects=effects, convergent=effects
        )

    def _load(self, space: str, address: ir.Value, words: int, displacement: int = 0) -> list[Any]:
        registers = ",".join(f"${i}" for i in range(words))
        target = "$0" if words == 1 else f"{{{registers}}}"
        text = f"ld.{space}{_VECTOR[words]}.b32 {target}, [${words}+{displacement}];"
        return list(self._asm(text, address, result=[self._i32] * words))

    def _store(
        self, space: str, address: ir.Value, words: Sequence[Any], displacement: int = 0
    ) -> None:
        registers = ",".join(f"${i + 1}" for i in range(len(words)))
        source = "$1" if len(words) == 1 else f"{{{registers}}}"
        text = f"st.{space}{_VECTOR[len(words)]}.b32 [$0+{displacement}], {source};"
        self._asm(text, address, *words)

    def _value(self, number: IntLike) -> ir.Value:
        return (number if isinstance(number, Int) else self.constant(number)).value

    def _shared_address(self, address: IntLike) -> ir.Value:
        return arith.addi(self._shared, self._value(address))

    def _global_address(self, array: Any, row: Int, pitch: int, offset: Int | None) -> ir.Value:
        wide = arith.extui(self._i64, row.value)
        wide = arith.muli(wide, arith.constant(self._i64, pitch))
        if offset is not None:
            wide = arith.addi(wide, arith.extui(self._i64, offset.value))
        # not Mosaic's own helper: that one does not know complex numbers
        start = memref.extract_aligned_pointer_as_index(array)
        return arith.addi(arith.index_cast(self._i64, start), wide)

    @override
    def constant(self, value: int) -> Int:
        return Int(self, arith.constant(self._i32, value))

    @override
    def integer(self, operation: str, left: Any, right: Any) -> Any:
        if operation in _CONDITIONS:
            return arith.cmpi(_CONDITIONS[operation], left, right)
        return _OPERATIONS[operation](left, right)

    @override
    def thread(self) -> Int:
        return Int(self, mosaic.thread_idx())

    @override
    def warp(self) -> Int:
        return Int(self, mosaic.warp_idx())

    def _special(self, register: str) -> Int:
        text = f"mov.u32 $0, %{register};"
        return Int(self, self._asm(text, result=self._i32, effects=False))

    @override
    def cluster(self) -> Int:
        return self._special("ctaid.x" if self.cluster_size == 1 else "clusterid.x")

    @override
    def rank(self) -> Int:
        return self.constant(0) if self.cluster_size == 1 else self._special("cluster_ctarank")

    @override
    @contextlib.contextmanager
    def when(self, condition: Int) -> Generator[None]:
        branch = scf.IfOp(condition.value)
        with ir.InsertionPoint(branch.then_block):
            yield
            scf.YieldOp([])

    @override
    def loop(
        self,
        start: IntLike,
        stop: IntLike,
        step: int,
        body: Callable[[Int, Sequence[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
    ) -> Sequence[Any]:
        loop = scf.ForOp(self._value(start), self._value(stop), self._value(step), list(carried))
        with ir.InsertionPoint(loop.body):
            results = body(Int(self, loop.induction_variable), list(loop.inner_iter_args))
            scf.YieldOp(list(results))
        return list(loop.results)

    @override
    def synchronize(self) -> None:
        self._asm(f"bar.sync 0, {self.threads};")

    @override
    def synchronize_team(self, team: Int, threads: int) -> None:
        self._asm(f"bar.sync $0, {threads};", (team + 1).value)

    @override
    def synchronize_any(self, condition: Int, team: Int, threads: int) -> Int:
        text = (
            "{\n.reg .pred p;\nsetp.ne.u32 p, $1, 0;\n"
            f"bar.red.or.pred p, $2, {threads}, p;\nselp.u32 $0, 1, 0, p;\n}}"
        )
        flag = arith.extui(self._i32, condition.value)
        return Int(self, self._asm(text, flag, (team + 1).value, result=self._i32))

    @override
    def teams(self, threads: int, bodies: Sequence[Callable[[], None]]) -> None:
        team = self.warp().divide(threads // 32)
        for index, body in enumerate(bodies):
            with self.when(team.equals(index)):
                body()

    @override
    def reconverge(self) -> None:
        self._asm("bar.warp.sync 0xffffffff;")

    @override
    def cluster_arrive(self) -> None:
        self._asm("barrier.cluster.arrive.relaxed.aligned;")

    @override
    def cluster_wait(self) -> None:
        self._asm("barrier.cluster.wait.acquire.aligned;")

"""Emits a block's program as MLIR and PTX inside a Mosaic GPU kernel.

Everything here stands on `plgpu.inline_mgpu` and Mosaic GPU's own helpers, which change from
release to release: this is the only module that names them.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, override

import jax
import jax.numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, math, memref, scf
from jax.experimental.mosaic.gpu import utils as mosaic
from jax.experimental.pallas import mosaic_gpu as plgpu

from structlayers._core.partitioning import vary_alike
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
_FUNCTIONS = {"abs": math.absf, "exp": math.exp, "log1p": math.log1p, "rsqrt": math.rsqrt}
_VECTOR = {1: "", 2: ".v2", 4: ".v4"}


def launch(
    program: Callable[..., None],
    inputs: Sequence[jax.Array | jax.Ref],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    clusters: int,
    cluster_size: int,
    threads: int,
    shared_bytes: int,
    name: str,
) -> list[jax.Array]:
    """Runs ``program(machine, inputs, outputs)`` in every thread of a grid.

    Args:
        program: The block's program.
        inputs: Arrays in device memory; those that the program writes too are `jax.Ref`.
        outputs: Shapes of the results.
        clusters: Size of the grid.
        cluster_size: Blocks of a cluster, which can copy to each other's shared memory.
        threads: Of a block, a multiple of 128.
        shared_bytes: Scratch of a block, from address 0 of the program.
        name: Of the kernel, for profiles.

    Returns:
        The results.
    """
    count = len(inputs)

    def body(*refs: Any) -> None:
        @plgpu.inline_mgpu(arg_types=tuple(plgpu.RefType() for _ in refs))
        def emit(context: Any, *memrefs: ir.Value) -> None:
            del context
            machine = MosaicMachine(memrefs[-1], threads, cluster_size)
            program(machine, memrefs[:count], memrefs[count:-1])

        emit(*refs)

    body.__name__ = name
    results = plgpu.kernel(
        body,
        out_type=tuple(outputs),
        scratch_types=[plgpu.SMEM((shared_bytes // 4,), jnp.int32)],
        grid=(clusters,),
        grid_names=("cluster",),
        cluster=(cluster_size,) if cluster_size > 1 else (),
        cluster_names=("rank",) if cluster_size > 1 else (),
        num_threads=threads // 128,
        thread_name="warpgroup",
        kernel_name=name,
    )(*inputs)
    # a result says nothing of the mesh axes over which it varies inside `jax.shard_map`
    arrays = [x for x in inputs if isinstance(x, jax.Array)]
    return vary_alike([*arrays, *results])[len(arrays) :]


class MosaicMachine(Machine):
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
    def reconverge(self) -> None:
        self._asm("bar.warp.sync 0xffffffff;")

    @override
    def cluster_arrive(self) -> None:
        self._asm("barrier.cluster.arrive.relaxed.aligned;")

    @override
    def cluster_wait(self) -> None:
        self._asm("barrier.cluster.wait.acquire.aligned;")

    @override
    def load_shared(self, address: Int, words: int) -> list[Any]:
        return self._load("shared", self._shared_address(address), words)

    @override
    def store_shared(self, address: Int, words: Sequence[Any]) -> None:
        self._store("shared", self._shared_address(address), words)

    @override
    def load_shared_half(self, address: Int) -> Any:
        text = "ld.shared.u16 $0, [$1];"
        return self._asm(text, self._shared_address(address), result=self._i32)

    @override
    def store_shared_half(self, address: Int, word: Any) -> None:
        self._asm("st.shared.b16 [$0], $1;", self._shared_address(address), word)

    @override
    def load_matrices(self, address: Int, *, transpose: bool) -> list[Any]:
        text = "ldmatrix.sync.aligned.m8n8.x4" + (".trans" if transpose else "")
        text += ".shared.b16 {$0,$1,$2,$3}, [$4];"
        return list(self._asm(text, self._shared_address(address), result=[self._i32] * 4))

    @override
    def store_matrices(self, address: Int, words: Sequence[Any], *, transpose: bool) -> None:
        text = "stmatrix.sync.aligned.m8n8.x4" + (".trans" if transpose else "")
        self._asm(text + ".shared.b16 [$0], {$1,$2,$3,$4};", self._shared_address(address), *words)

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
        row = row if isinstance(row, Int) else self.constant(row)
        address = self._global_address(array, row, pitch, offset)
        space = "global.nc" if constant else "global"
        return self._load(space, address, words, displacement)

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
        address = self._global_address(array, row, pitch, offset)
        self._store("global", address, words, displacement)

    @override
    def load_global_half(self, array: Any, row: Int, pitch: int, offset: Int) -> Any:
        address = self._global_address(array, row, pitch, offset)
        return self._asm("ld.global.nc.u16 $0, [$1];", address, result=self._i32)

    @override
    def store_global_half(self, array: Any, row: Int, pitch: int, offset: Int, word: Any) -> None:
        address = self._global_address(array, row, pitch, offset)
        self._asm("st.global.b16 [$0], $1;", address, word)

    @override
    def prefetch(self, array: Any, row: Int, pitch: int, offset: Int) -> None:
        self._asm("prefetch.global.L2 [$0];", self._global_address(array, row, pitch, offset))

    @override
    def prefetch_bulk(self, array: Any, row: Int, pitch: int, size: int) -> None:
        self._asm(
            "cp.async.bulk.prefetch.L2.global [$0], $1;",
            self._global_address(array, row, pitch, None),
            self._value(size),
        )

    @override
    def barrier_init(self, address: int) -> None:
        self._asm("mbarrier.init.shared.b64 [$0], 1;", self._shared_address(address))
        self._asm("fence.mbarrier_init.release.cluster;")

    @override
    def barrier_expect(self, address: IntLike, size: IntLike) -> None:
        self._asm(
            "mbarrier.arrive.expect_tx.shared.b64 _, [$0], $1;",
            self._shared_address(address),
            self._value(size),
        )

    @override
    def barrier_wait(self, address: IntLike, parity: IntLike) -> None:
        self._asm(
            "{\n.reg .pred p;\nLAB_WAIT:\n"
            "mbarrier.try_wait.parity.shared.b64 p, [$0], $1;\n"
            "@p bra DONE;\nbra LAB_WAIT;\nDONE:\n}",
            self._shared_address(address),
            self._value(parity),
        )

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
        self._asm(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
            "[$0], [$1], $2, [$3];",
            self._shared_address(address),
            self._global_address(array, row, pitch, offset),
            self._value(size),
            self._shared_address(barrier),
        )

    @override
    def load_ahead(self, address: Int, array: Any, row: Int, pitch: int, offset: Int) -> None:
        self._asm(
            "cp.async.cg.shared.global [$0], [$1], 16;",
            self._shared_address(address),
            self._global_address(array, row, pitch, offset),
        )

    @override
    def commit_loads(self) -> None:
        self._asm("cp.async.commit_group;")

    @override
    def wait_loads(self, pending: int) -> None:
        self._asm(f"cp.async.wait_group {pending};")

    @override
    def release_to_copies(self) -> None:
        self._asm("fence.proxy.async.shared::cta;")

    @override
    def copy_out(
        self, array: Any, row: Int, pitch: int, offset: Int, address: Int, size: int
    ) -> None:
        self._asm(
            "cp.async.bulk.global.shared::cta.bulk_group [$0], [$1], $2;",
            self._global_address(array, row, pitch, offset),
            self._shared_address(address),
            self._value(size),
        )

    @override
    def commit_out(self) -> None:
        self._asm("cp.async.bulk.commit_group;")

    @override
    def wait_out(self, pending: int) -> None:
        self._asm(f"cp.async.bulk.wait_group.read {pending};")

    def _peer_address(self, address: IntLike, rank: Int) -> ir.Value:
        text = "mapa.shared::cluster.u32 $0, $1, $2;"
        own = self._shared_address(address)
        return self._asm(text, own, rank.value, result=self._i32, effects=False)

    @override
    def store_to_peer(
        self, rank: Int, address: Int, words: Sequence[Any], barrier: IntLike
    ) -> None:
        self._asm(
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
            "[$0], {$1,$2,$3,$4}, [$5];",
            self._peer_address(address, rank),
            *words,
            self._peer_address(barrier, rank),
        )

    @override
    def zero(self) -> Any:
        return arith.constant(self._f32, 0.0)

    @override
    def word(self, value: int) -> Any:
        return arith.constant(self._i32, value)

    @override
    def number(self, value: float) -> Any:
        return arith.constant(self._f32, value)

    @override
    def float(self, word: Any) -> Any:
        return arith.bitcast(self._f32, word)

    @override
    def bits(self, value: Any) -> Any:
        return arith.bitcast(self._i32, value)

    @override
    def integer_of(self, word: Any) -> Int:
        return Int(self, word)

    @override
    def word_of(self, value: Int) -> Any:
        return value.value

    @override
    def select(self, condition: Int, chosen: Any, other: Any) -> Any:
        return arith.select(condition.value, chosen, other)

    @override
    def exp2(self, value: Any) -> Any:
        return self._asm("ex2.approx.ftz.f32 $0, $1;", value, result=self._f32, effects=False)

    @override
    def reciprocal(self, value: Any) -> Any:
        return self._asm("rcp.approx.ftz.f32 $0, $1;", value, result=self._f32, effects=False)

    @override
    def warp_minimum(self, value: Int) -> Int:
        text = "redux.sync.min.s32 $0, $1, 0xffffffff;"
        return Int(self, self._asm(text, value.value, result=self._i32))

    @override
    def add(self, left: Any, right: Any) -> Any:
        return arith.addf(left, right)

    @override
    def multiply(self, left: Any, right: Any) -> Any:
        return arith.mulf(left, right)

    @override
    def negate(self, value: Any) -> Any:
        return arith.negf(value)

    @override
    def unary(self, function: str, value: Any) -> Any:
        return _FUNCTIONS[function](value)

    @override
    def divide(self, left: Any, right: Any) -> Any:
        return arith.divf(left, right)

    @override
    def fma(self, left: Any, right: Any, term: Any) -> Any:
        return math.fma(left, right, term)

    @override
    def tensor_product(self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]) -> Any:
        return self._tensor_product(8 * len(right), "bf16", acc, left, right)

    @override
    def tensor_product_tf32(
        self, acc: Sequence[Any], left: Sequence[Any], right: Sequence[Any]
    ) -> Any:
        return self._tensor_product(8, "tf32", acc, left, right)

    @override
    def round_tf32(self, value: Any, *, again: bool = False) -> Any:
        text = "cvt.rn.tf32.f32 $0, $1;"  # .rna takes three instructions
        return self.float(self._asm(text, value, result=self._i32, effects=again))

    def _tensor_product(
        self,
        depth: int,
        kind: str,
        acc: Sequence[Any],
        left: Sequence[Any],
        right: Sequence[Any],
    ) -> Any:
        operands = (len(left), len(right), len(acc))
        registers = iter(range(len(acc), len(acc) + sum(operands)))
        texts = [f"{{{','.join(f'${next(registers)}' for _ in range(n))}}}" for n in operands]
        return self._asm(
            f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 "
            f"{{$0,$1,$2,$3}}, {', '.join(texts)};",
            *left,
            *right,
            *acc,
            result=[self._f32] * 4,
            effects=False,
        )

    def _through(self, text: str, values: Sequence[Any]) -> list[Any]:
        """An instruction that values must not be moved across."""
        types = [value.type for value in values]
        kinds = ["f" if one == self._f32 else "r" for one in types]
        return self._tied(text, values, [f"={kind}" for kind in kinds], (), ())

    def _tied(
        self,
        text: str,
        values: Sequence[Any],
        results: Sequence[str],
        arguments: Sequence[Any],
        constraints: Sequence[str],
    ) -> list[Any]:
        """PTX whose results are its first operands, changed in place."""
        types = [value.type for value in values]
        ties = [str(i) for i in range(len(values))]
        struct = llvm.inline_asm(
            llvm.StructType.get_literal(types),
            [*values, *arguments],
            text,
            ",".join([*results, *ties, *constraints]),
            has_side_effects=True,
        )
        assert isinstance(struct, ir.Value)
        return [llvm.extractvalue(one, struct, [i]) for i, one in enumerate(types)]

    @override
    def warpgroup_begin(self, values: Sequence[Any]) -> list[Any]:
        return self._through("wgmma.fence.sync.aligned;", values)

    @override
    def warpgroup_product(
        self, acc: Sequence[Any], left: Sequence[Any], right: Int, *, transpose: bool, panel: int
    ) -> list[Any]:
        count = len(acc)
        # units of 16 bytes: of eight rows, and of panels; swizzle of 128 bytes
        constants = (1024 >> 4 << 32) | ((panel >> 4) << 16)
        address = arith.shrui(self._shared_address(right), self._value(4))
        high = arith.shli(self._wide(1), self._wide(62))
        descriptor = arith.ori(arith.extui(self._i64, address), self._wide(constants))
        descriptor = arith.ori(descriptor, high)
        sums = ",".join(f"${i}" for i in range(count))
        words = ",".join(f"${i}" for i in range(2 * count, 2 * count + 4))
        text = (
            f"wgmma.mma_async.sync.aligned.m64n{2 * count}k16.f32.bf16.bf16 "
            f"{{{sums}}}, {{{words}}}, ${2 * count + 4}, 1, 1, 1, {int(transpose)};"
        )
        constraints = ["r"] * 4 + ["l"]
        return self._tied(text, acc, ["=f"] * count, [*left, descriptor], constraints)

    def _wide(self, value: int) -> ir.Value:
        return arith.constant(self._i64, value)

    @override
    def warpgroup_commit(self) -> None:
        self._asm("wgmma.commit_group.sync.aligned;")

    @override
    def warpgroup_wait(self, pending: int, values: Sequence[Any]) -> list[Any]:
        return self._through(f"wgmma.wait_group.sync.aligned {pending};", values)

    @override
    def unpack(self, word: Any) -> tuple[Any, Any]:
        low = arith.shli(word, self.word(16))
        high = arith.andi(word, self.word(-65536))
        return self.float(low), self.float(high)

    @override
    def pack(self, low: Any, high: Any) -> Any:
        return self._asm(
            "cvt.rn.bf16x2.f32 $0, $1, $2;", high, low, result=self._i32, effects=False
        )

"""Arithmetic of threads, and of tensor cores, as MLIR and PTX."""

from collections.abc import Sequence
from typing import Any, override

from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import arith, llvm, math

from structlayers._core.simt.machine import Int
from structlayers._core.simt.mosaic.threads import Threads

_FUNCTIONS = {"abs": math.absf, "exp": math.exp, "log1p": math.log1p, "rsqrt": math.rsqrt}


class Arithmetic(Threads):
    """Values of threads, and products of warps and warpgroups."""

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
    def shuffle_xor(self, value: Any, mask: int) -> Any:
        text = f"shfl.sync.bfly.b32 $0, $1, {mask}, 31, 0xffffffff;"
        return self._asm(text, value, result=self._f32)

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
        self,
        acc: Sequence[Any],
        left: Sequence[Any] | Int,
        right: Int,
        *,
        transpose: bool,
        panel: int,
        left_transpose: bool = False,
    ) -> list[Any]:
        count, shared = len(acc), isinstance(left, Int)
        operands = [self._descriptor(left, 0)] if isinstance(left, Int) else list(left)
        words = ",".join(f"${i}" for i in range(2 * count, 2 * count + len(operands)))
        sums = ",".join(f"${i}" for i in range(count))
        text = (
            f"wgmma.mma_async.sync.aligned.m64n{2 * count}k16.f32.bf16.bf16 "
            f"{{{sums}}}, {words if shared else f'{{{words}}}'}, ${2 * count + len(operands)}, "
            f"1, 1, 1, {f'{int(left_transpose)}, ' if shared else ''}{int(transpose)};"
        )
        constraints = ["l" if shared else "r"] * len(operands) + ["l"]
        operands.append(self._descriptor(right, panel))
        return self._tied(text, acc, ["=f"] * count, operands, constraints)

    def _descriptor(self, address: Int, panel: int) -> ir.Value:
        """Of an operand in shared memory."""
        # units of 16 bytes: of eight rows, and of panels; swizzle of 128 bytes
        constants = (1024 >> 4 << 32) | ((panel >> 4) << 16)
        start = arith.shrui(self._shared_address(address), self._value(4))
        high = arith.shli(self._wide(1), self._wide(62))
        descriptor = arith.ori(arith.extui(self._i64, start), self._wide(constants))
        return arith.ori(descriptor, high)

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

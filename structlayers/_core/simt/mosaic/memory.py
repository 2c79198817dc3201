"""Shared and device memory, asynchronous copies and their barriers, as PTX."""

from collections.abc import Sequence
from typing import Any, override

from jax._src.lib.mlir import ir

from structlayers._core.simt.machine import Int, IntLike
from structlayers._core.simt.mosaic.threads import Threads


class Memory(Threads):
    """Loads, stores and copies."""

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
    def barrier_init(self, address: int, arrivals: int = 1) -> None:
        self._asm(f"mbarrier.init.shared.b64 [$0], {arrivals};", self._shared_address(address))
        self._asm("fence.mbarrier_init.release.cluster;")

    @override
    def barrier_expect(self, address: IntLike, size: IntLike) -> None:
        self._asm(
            "mbarrier.arrive.expect_tx.shared.b64 _, [$0], $1;",
            self._shared_address(address),
            self._value(size),
        )

    @override
    def barrier_arrive(self, address: IntLike) -> None:
        self._asm("mbarrier.arrive.shared.b64 _, [$0];", self._shared_address(address))

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
    def loads_arrive(self, address: IntLike) -> None:
        text = "cp.async.mbarrier.arrive.noinc.shared.b64 [$0];"
        self._asm(text, self._shared_address(address))

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

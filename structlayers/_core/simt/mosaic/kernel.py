"""The machine that emits a program, and the kernel around it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.lib.mlir import ir
from jax.experimental.pallas import mosaic_gpu as plgpu

from structlayers._core.partitioning import vary_alike
from structlayers._core.simt.mosaic.arithmetic import Arithmetic
from structlayers._core.simt.mosaic.memory import Memory


class MosaicMachine(Memory, Arithmetic):
    """Emits instructions at the current insertion point."""


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

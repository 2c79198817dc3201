"""The machine that runs a program, and running it for a whole grid."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from structlayers.testing.simt.arithmetic import Arithmetic
from structlayers.testing.simt.device_memory import DeviceMemory


class NumpyMachine(DeviceMemory, Arithmetic):
    """Executes instructions for all threads of one block; values are arrays over the threads."""


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

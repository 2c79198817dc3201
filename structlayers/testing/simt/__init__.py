"""Runs the program of a GPU block with NumPy, all of its threads at once.

For kernels written against `structlayers._core.simt.machine.Machine`: checks their indexing and
arithmetic where there is no GPU, and finds what a GPU shows only now and then: shared memory read
before it is written, and accesses of different warps to one word that no barrier orders.
"""

from structlayers.testing.simt.simulation import NumpyMachine, simulate
from structlayers.testing.simt.threads import RaceError

__all__ = ["NumpyMachine", "RaceError", "simulate"]

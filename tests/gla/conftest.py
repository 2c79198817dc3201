"""Fixtures of the family."""

import jax
import numpy as np
import pytest

from structlayers._core.dispatch import assume_platform
from structlayers._core.partitioning import vary_alike
from structlayers.gla.pallas_gpu import apply, calls, gradient_states
from structlayers.gla.pallas_gpu.layout import SHARED_LIMIT
from structlayers.testing.simt import simulate


@pytest.fixture
def simulated(monkeypatch):
    """Launches as callbacks of the NumPy machine, which no rule of partitioning can hold."""

    def launch(program, inputs, outputs, written=(), *, blocks, threads, shared_bytes, name):
        assert shared_bytes <= SHARED_LIMIT, name
        count = len(inputs)

        def run(*arrays):
            arrays = [np.asarray(array) for array in arrays]
            in_place = [array.copy() for array in arrays[count:]]
            grid = {"clusters": blocks, "cluster_size": 1}
            found = simulate(
                lambda machine, arrays, results: program(machine, arrays, [*results, *in_place]),
                arrays[:count],
                outputs,
                threads=threads,
                shared_bytes=shared_bytes,
                **grid,
            )
            return *found, *in_place

        shapes = [*outputs, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written)]
        results = jax.pure_callback(run, tuple(shapes), *inputs, *written)
        return list(vary_alike((inputs, results))[1])

    monkeypatch.setattr(calls, "_launch", launch)
    # so that blocks prefetch for others
    monkeypatch.setattr(gradient_states, "MULTIPROCESSORS", 1)
    monkeypatch.setattr(apply._Kernels, "partitioned", False)
    with assume_platform("gpu"):
        yield

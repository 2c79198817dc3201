"""Programs on the NumPy machine, as its tests run them."""

import jax
import numpy as np

from structlayers.testing.simt import simulate

WORDS = jax.ShapeDtypeStruct((64,), np.uint32)


def run(program, inputs=(), outputs=(WORDS,), **kwargs):
    sizes = {"clusters": 1, "cluster_size": 1, "threads": 64, "shared_bytes": 1024}
    return simulate(program, list(inputs), list(outputs), **sizes | kwargs)

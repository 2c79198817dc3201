"""NumPy's FFT and matrix product, called from Python: what the paper's inference figure shows."""

import statistics

import numpy as np

from experiments.bench.timing import launched_seconds


def host_seconds(n: int, batch: int, repeats: int) -> dict[str, float]:
    """Median seconds of one call on random float32 data (the FFT's are complex64).

    Args:
        n: size.
        batch: number of vectors.
        repeats: bursts of calls.
    """
    rng = np.random.default_rng([n, batch])
    x = rng.standard_normal((batch, n), np.float32)
    matrix = rng.standard_normal((n, n), np.float32)
    rows = x.astype(np.complex64)
    calls = {"numpy_fft": lambda: np.fft.fft(rows), "numpy_matmul": lambda: x @ matrix}
    return {
        name: statistics.median(launched_seconds(call) for _ in range(repeats))
        for name, call in calls.items()
    }

"""The paper's own speeds, to compare with.

Dao et al. 2019, section 4.3, Figure 4, with the values of the data files in
github.com/HazyResearch/butterfly (commit a19cb2f, 2019-03-14, which the text quotes).
"""

SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)

# Forward and backward, batch 256, one Tesla P100: time of a dense product (cuBLAS) over the time.
_TRAINING = {
    "butterfly": (0.48, 0.44, 0.45, 0.52, 1.16, 2.46, 4.24, 7.5),
    "fft": (0.55, 0.78, 0.49, 0.58, 1.55, 3.49, 13.0, 30.8),
}

# One vector, one thread of a Xeon E5-2690 v4: time of NumPy's matrix-vector product over the time.
_INFERENCE = {
    "butterfly": (0.19, 0.19, 0.57, 1.56, 4.4, 10.6, 65.8, 172.0),
    "fft": (0.67, 0.96, 3.2, 9.4, 22.0, 26.0, 215.0, 461.0),
}

_TABLES = {"training": _TRAINING, "inference": _INFERENCE}


def speedup(table: str, what: str, n: int) -> float | None:
    """Speed-up over a dense product that the paper states; None where it states none.

    Args:
        table: "training" (GPU, batch 256) or "inference" (CPU, one vector).
        what: "butterfly" or "fft".
        n: transform size.

    Example:
        >>> speedup("training", "butterfly", 1024), speedup("inference", "fft", 16384)
        (1.16, None)
    """
    values = _TABLES[table][what]
    return values[SIZES.index(n)] if n in SIZES else None

"""The paper's own numbers for Figure 3, to compare with."""

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)

# Best RMSE found in the paper, by transform and size: Dao et al. 2019, Figure 3 (heat map), with
# the values of the file rmse.pkl in github.com/HazyResearch/butterfly.
_RMSE = {
    "dft": (3.1e-6, 4.6e-6, 8.7e-6, 1.0e-5, 2.0e-5, 3.8e-5, 8.0e-5, 5.7e-5),
    "dct": (4.4e-6, 1.1e-5, 8.6e-6, 1.2e-5, 2.1e-5, 1.9e-5, 3.1e-5, 7.3e-5),
    "dst": (1.1e-6, 7.5e-6, 4.6e-5, 5.1e-5, 3.0e-5, 2.1e-5, 3.6e-5, 4.6e-5),
    "convolution": (4.0e-6, 2.5e-5, 6.4e-5, 7.6e-5, 5.9e-5, 7.8e-5, 6.3e-5, 1.9e-2),
    "hadamard": (8.8e-7, 7.8e-6, 1.3e-5, 3.9e-5, 3.5e-5, 4.5e-5, 6.1e-5, 3.6e-5),
    "hartley": (3.4e-6, 9.0e-6, 1.1e-5, 1.3e-5, 3.6e-5, 4.3e-5, 4.5e-5, 3.6e-5),
    "legendre": (3.4e-2, 2.9e-2, 2.4e-2, 1.4e-2, 7.9e-3, 4.5e-3, 2.6e-3, 1.6e-3),
    "randn": (1.4e-1, 1.6e-1, 1.4e-1, 1.1e-1, 8.4e-2, 6.1e-2, 4.4e-2, 3.1e-2),
}

TRANSFORMS = tuple(_RMSE)

# The paper calls a transform recovered when its RMSE is below this ("machine precision").
RECOVERED_RMSE = 1e-4


def rmse(transform: str, n: int) -> float | None:
    """Best RMSE of the paper for a transform and a size; None where it has none.

    Example:
        >>> rmse("dft", 64)
        1e-05
    """
    values = _RMSE.get(transform)
    return values[SIZES.index(n)] if values is not None and n in SIZES else None

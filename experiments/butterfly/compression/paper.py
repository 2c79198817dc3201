"""The paper's own numbers for Table 1, to compare with."""

DATASETS = ("mnist_bg_rot", "mnist_noise", "cifar10_grey")

# Test accuracy in percent by method, in the order of DATASETS, and the compression factor of the
# whole network: Dao et al. 2019, Table 1. Its baselines are those of Thomas, Gu, Dao, Rudra, Ré,
# "Learning compressed transforms with low displacement rank", 2018, arXiv:1810.02309.
_TABLE = {
    "unconstrained": ((44.08, 65.15, 46.03), 1.0),
    "bpbp_complex": ((46.26, 77.00, 49.93), 39.4),
    "bpbp_real": ((46.16, 75.00, 48.69), 56.9),
    "ldr_td": ((45.81, 78.45, 45.33), 56.9),
    "toeplitz_like": ((42.67, 75.75, 41.78), 56.9),
    "fastfood": ((38.13, 63.55, 39.64), 78.7),
    "circulant": ((34.46, 65.35, 34.28), 93.0),
    "low_rank": ((35.67, 52.25, 32.28), 56.9),
}

METHODS = tuple(_TABLE)

BUTTERFLIES = ("bpbp_complex", "bpbp_real")


def accuracy(method: str, dataset: str) -> float | None:
    """Test accuracy of the paper in percent; None where it has none.

    Example:
        >>> accuracy("bpbp_complex", "cifar10_grey"), accuracy("monarch", "cifar10_grey")
        (49.93, None)
    """
    row = _TABLE.get(method)
    return row[0][DATASETS.index(dataset)] if row else None


def compression(method: str) -> float | None:
    """Compression factor that the paper states; None where it states none.

    Example:
        >>> compression("circulant")
        93.0
    """
    row = _TABLE.get(method)
    return row[1] if row else None


def ranking(dataset: str) -> tuple[str, ...]:
    """The paper's methods on a data set, the best first.

    Example:
        >>> ranking("cifar10_grey")[:3]
        ('bpbp_complex', 'bpbp_real', 'unconstrained')
    """
    column = DATASETS.index(dataset)
    return tuple(sorted(_TABLE, key=lambda method: -_TABLE[method][0][column]))

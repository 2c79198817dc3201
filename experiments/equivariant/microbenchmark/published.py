"""Times that papers give, in microseconds; by key of a case and name of a row.

`FREEDOM`: kernel times on an A100, setting MIMO, 10,000 rows, by Nsight Compute; Clebsch-Gordan
products have the even couplings alone. From the benchmark's files that accompany Xie et al. 2025,
arXiv:2506.13523 (github.com/atomicarchitects/PriceofFreedom).

`GAUNT`: the outputs of the notebooks that accompany Luo et al. 2024, arXiv:2401.10216
(github.com/lsj2408/Gaunt-Tensor-Product), wall times on a GPU that they do not name; "L" there
counts degrees, so theirs is ours plus one. Means of ten calls without warm-up: deviations exceed
the means for feature interactions and convolutions, so these say little. Those of many-body
products deviate by less than a tenth for most.
"""

# L: Clebsch-Gordan dense, sparse; Gaunt on a grid, by Fourier; matrices
_A100 = {
    1: (None, 29, 78, 82, 46),
    2: (None, 262, None, 186, 171),
    3: (347, 505, 98, 433, 239),
    4: (617, 864, 149, 918, 458),
    5: (1337, 1262, 185, 1827, 472),
    8: (3129, None, None, 9198, None),
    10: (6093, None, 669, None, 7787),
}
_COLUMNS = (
    "clebsch_gordan_dense",
    "clebsch_gordan_sparse_even",
    "chosen",
    "fourier_2d",
    "matrix",
)
FREEDOM: dict[str, dict[str, float]] = {
    f"mimo_l{lmax}_b10000_tf32": {
        name: float(value) for name, value in zip(_COLUMNS, row, strict=True) if value is not None
    }
    for lmax, row in _A100.items()
}

# milliseconds from L = 1 on; the Gaunt product of the paper
_FEATURE = (0.76, 0.82, 2.31, 3.06, 2.63, 2.28, 3.48, 7.16, 6.14, 2.34, 2.81, 2.92, 3.07)
_CONVOLUTION = (0.84, 0.88, 2.71, 2.85, 2.33, 1.59, 1.98, 1.80, 4.94, 3.66, 2.47)
# Gaunt and MACE: from L = 1 on at nu = 3, from nu = 4 on at L = 1
_BODIES = ((1.29, 3.00), (1.71, 4.86), (2.27, 7.06), (3.80, 13.59), (8.60, 44.02))
_ORDERS = ((1.41, 3.81), (2.05, 4.55), (2.68, 8.25), (3.46, 11.40))


def _bodies(
    key: str, first: int, rows: tuple[tuple[float, float], ...]
) -> dict[str, dict[str, float]]:
    return {
        f"{key}{at}_b32x128_tf32": {"chosen": 1000 * own, "symmetric_contraction": 1000 * mace}
        for at, (own, mace) in enumerate(rows, start=first)
    }


def _own(key: str, rest: str, values: tuple[float, ...]) -> dict[str, dict[str, float]]:
    return {
        f"{key}{at}_{rest}": {"chosen": 1000 * value} for at, value in enumerate(values, start=1)
    }


GAUNT: dict[str, dict[str, float]] = {
    **_own("feature_l", "b1x128_tf32", _FEATURE),
    **_own("convolution_l", "b1_tf32", _CONVOLUTION),
    **_bodies("many_body_l", 1, _BODIES),
    **_bodies("order_nu", 4, _ORDERS),
}

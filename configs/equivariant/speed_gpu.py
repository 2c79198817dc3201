"""Speed of Gaunt and many-body products on a GPU: one kernel against the grid in memory.

Two signals of degree L, product to degree L, on 100,000 nodes of 128 channels, L = 2, 3, 4, 6, 8;
in float32 with products of TF32 and of three TF32, and in bfloat16; alone and with gradients. The
powers 1 to 3 of a signal of degree 3 on 5,000 nodes, and the microbenchmark of Xie et al. (10,000
rows, degree 10 with 10 to 20). Beside the kernel stand XLA's product through the same tables at the
same precision, and, by --candidates, other implementations, e3nn-jax and cuEquivariance, whose
Clebsch-Gordan products have more paths. Shares are of the longer of two times: bytes at the rate of
a copy, and products of one table each way at that of the tensor cores, measured in the same run.

Paper: Luo et al. 2024, arXiv:2401.10216, and Xie et al. 2025, arXiv:2506.13523 (A100: 669 us for
the last one); the bounds are the project's own for one H200.
Expected: 60 % of the floor and more; 3 times as fast as XLA to L = 4, 2 times at L = 8.
Hardware: one H200; 3 minutes (estimated).
Command: python -m experiments run configs/equivariant/speed_gpu.py
"""

from experiments.equivariant.speed.config import SpeedConfig

# milliseconds in TF32, three TF32 and bfloat16, and how many times XLA's
_LINES = {
    2: (0.55, 0.7, 0.3, 3.0),
    3: (1.0, 1.2, 0.5, 3.0),
    4: (1.5, 3.0, 0.8, 3.0),
    6: (3.5, 10.5, 1.8, 2.5),
    8: (9.6, 29.0, 4.8, 2.0),
}
_LARGE = {
    lmax: tuple(
        f"gaunt_l{lmax}_l{lmax}_l{lmax}_b100000x128_{dtype}" for dtype in ("float32", "bfloat16")
    )
    for lmax in _LINES
}
_POWERS = "power3_l3_l2_b5000x128_float32"
_FREEDOM = "gaunt_l10_l10_l20_b10000_float32"
_CELLS = {
    f"{name}/{precision}": (milliseconds, times)
    for lmax, (tf32, three, half, times) in _LINES.items()
    for name, precision, milliseconds in (
        (_LARGE[lmax][0], "tf32", tf32),
        (_LARGE[lmax][0], "3xtf32", three),
        (_LARGE[lmax][1], "bf16", half),
    )
}


def get_config() -> SpeedConfig:
    """All shapes, with the lines for one H200."""
    return SpeedConfig(
        experiment="speed_gpu",
        forward=(*(name for names in _LARGE.values() for name in names), _POWERS, _FREEDOM),
        both=tuple(name for names in _LARGE.values() for name in names),
        timer="profiler",
        at_least=(
            *((f"{cell}/forward/share", 0.6) for cell in _CELLS),
            *((f"{cell}/forward/over_xla", times) for cell, (_, times) in _CELLS.items()),
        ),
        at_most=(
            *((f"{cell}/forward/us", 1000 * limit) for cell, (limit, _) in _CELLS.items()),
            *((f"{cell}/backward_over_forward", 2.2) for cell in _CELLS),
            *((f"{cell}/forward_backward/memory", 1.1) for cell in _CELLS),
            *((f"{cell}/forward/memory", 1.1) for cell in _CELLS),
            (f"{_POWERS}/tf32/forward/us", 100.0),
            (f"{_FREEDOM}/tf32/forward/us", 100.0),
        ),
    )

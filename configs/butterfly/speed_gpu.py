"""Speed of the butterfly product on a GPU against dense, FFT, two matmuls and the stage loop.

Sizes 64 .. 16384, untied: float32 at batch 256 (the paper's) and 16384, bfloat16 at 16384, and
complex64 at 4096; the product alone and with all gradients. Float32 is multiplied as float32
(precision "highest"), its dense rival too; the dense rival in TF32 stands beside it. The chosen
implementation is the one that the op runs by itself. A part is measured by --sweeps and --sizes.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.3, Figure 4 (Tesla P100, batch 256, forward and
backward): 1.16 times as fast as a dense product at N = 1024, 7.5 times at 8192.
Expected: bfloat16 2.2 times dense at 1024 and 10 times at 8192, 80 % of the copy rate to 4096.
Time: 20 minutes on one H200, compilation included (estimated).
Command: python -m experiments run configs/butterfly/speed_gpu.py
"""

from experiments.butterfly.speed.config import SpeedConfig

_LARGE = "b16384"


def _shares() -> tuple[tuple[str, float], ...]:
    lines = {512: 0.80, 1024: 0.80, 2048: 0.80, 4096: 0.80, 8192: 0.45, 16384: 0.45}
    return tuple(
        (f"{dtype}/{_LARGE}/n{n:05d}/forward/copy_share", share)
        for dtype in ("float32", "bfloat16")
        for n, share in lines.items()
    )


def get_config() -> SpeedConfig:
    """All sweeps, with the lines for one H200."""
    return SpeedConfig(
        experiment="speed_gpu",
        sweeps=(
            "bfloat16/b16384/forward",
            "float32/b16384/forward",
            "bfloat16/b16384/forward_backward",
            "float32/b16384/forward_backward",
            "complex64/b4096/forward",
            "float32/b256/forward",
            "float32/b256/forward_backward",
        ),
        at_least=(
            (f"bfloat16/{_LARGE}/n01024/forward/speedup", 2.2),
            (f"bfloat16/{_LARGE}/n02048/forward/speedup", 4.4),
            (f"bfloat16/{_LARGE}/n04096/forward/speedup", 8.9),
            (f"bfloat16/{_LARGE}/n08192/forward/speedup", 10.0),
            (f"float32/{_LARGE}/n01024/forward/speedup", 13.0),
            (f"bfloat16/{_LARGE}/n01024/forward_backward/speedup", 2.2),
            (f"bfloat16/{_LARGE}/n04096/forward_backward/speedup", 8.0),
            (f"bfloat16/{_LARGE}/n01024/forward/speedup_over_stage_loop", 6.0),
            (f"float32/{_LARGE}/n01024/forward/speedup_over_stage_loop", 6.0),
            # at most 1.3 times as long as an FFT
            *(
                (f"complex64/b4096/n{n:05d}/forward/speedup_over_fft", 1 / 1.3)
                for n in (1024, 4096, 16384)
            ),
            *_shares(),
        ),
        at_most=(("times_dense_max", 1.05),),
    )

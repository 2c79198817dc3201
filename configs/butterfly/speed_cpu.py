"""Speed of the butterfly product on one thread of a CPU against dense, FFT and the stage loop.

Sizes 64 .. 8192, untied, float32: batch 256 with and without gradients, and single vectors. Beside
these stand NumPy's FFT and matrix product as in the paper, called from Python; the op and the dense
product are timed in a loop inside XLA, without the cost of a call. One thread means

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 COMMAND

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.3, Figure 4 (one thread, one vector): 4.4 times
as fast as NumPy's matrix-vector product at N = 1024, 172 times at 8192.
Expected: never slower than dense from N = 2048 on.
Time: 7 minutes on one core.
Command: python -m experiments run configs/butterfly/speed_cpu.py
"""

from experiments.butterfly.speed.config import SpeedConfig


def get_config() -> SpeedConfig:
    """Batch 256 and single vectors."""
    return SpeedConfig(
        experiment="speed_cpu",
        sweeps=("float32/b1/forward", "float32/b256/forward", "float32/b256/forward_backward"),
        sizes=tuple(2**level for level in range(6, 14)),
        host=True,
        repeats=15,
        paper_table="inference",
        paper_sweep="float32/b1/forward",
        at_least=(
            ("float32/b256/forward/speedup_min_from_n02048", 1.0),
            ("float32/b256/forward_backward/speedup_min_from_n02048", 1.0),
        ),
    )

"""Recover a convolution as BPBP at N = 1024, where the paper fails (1.9e-2).

As recover_convolution, started from the inverse DFT times the DFT plus random noise: what is
learned is the diagonal between them.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error below 1e-4.
Time: 25 s on one H200.
Command: python -m experiments run configs/butterfly/recover_convolution_1024.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover a convolution as BPBP at N = 1024, where the paper fails (1.9e-2)."""
    return RecoveryConfig(
        experiment="recover_convolution_1024",
        transform="convolution",
        sizes=(1024,),
        blocks=2,
        tied=True,
        initializer="fourier",
        steps=1500,
        seeds=4,
        rmse_goal=0.0001,
        relative_goal=0.0001,
        relative_goal_float64=1e-10,
        seed_fraction_goal=0.25,
    )

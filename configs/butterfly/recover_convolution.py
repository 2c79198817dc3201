"""Recover a convolution as BPBP from its circulant matrix, N = 8 .. 512.

Two tied complex butterflies, bit reversal before each. The whole complex matrix is compared,
imaginary part 0 included: with the real part alone far fewer seeds succeed.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 1e-6 for the best of 16 seeds; paper 4e-6 .. 8e-5.
Time: 46 s on one H200 for float32, some minutes for float64.
Command: python -m experiments run configs/butterfly/recover_convolution.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover a convolution as BPBP from its circulant matrix, N = 8 .. 512."""
    return RecoveryConfig(
        experiment="recover_convolution",
        transform="convolution",
        sizes=(8, 16, 32, 64, 128, 256, 512),
        blocks=2,
        tied=True,
        steps=10000,
        rmse_goal=1e-05,
        relative_goal=0.0001,
        relative_goal_float64=1e-10,
        seed_fraction_goal=0.0625,
    )

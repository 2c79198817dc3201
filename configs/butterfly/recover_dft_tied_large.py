"""Recover the FFT with tied factors at N = 512 and 1024.

The recipe is that of recover_dft_tied; fewer seeds find the way, one is enough here.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 1e-7 for several of 16 seeds.
Time: 22 s on one H200.
Command: python -m experiments run configs/butterfly/recover_dft_tied_large.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the FFT with tied factors at N = 512 and 1024."""
    return RecoveryConfig(
        experiment="recover_dft_tied_large",
        transform="dft",
        sizes=(512, 1024),
        tied=True,
        steps=3000,
        seed_fraction_goal=0.0625,
    )

"""Recover the FFT from the DFT matrix at N = 4096, beyond the paper.

As recover_dft, two seeds.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 2e-7.
Time: 26 s on one H200.
Command: python -m experiments run configs/butterfly/recover_dft_4096.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the FFT from the DFT matrix at N = 4096, beyond the paper."""
    return RecoveryConfig(
        experiment="recover_dft_4096",
        transform="dft",
        sizes=(4096,),
        dtypes=("float32",),
        steps=1000,
        recovery_steps_goal=500,
    )

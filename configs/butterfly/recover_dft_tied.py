"""Recover the FFT with tied factors, the parametrization of the paper.

One set of 2x2 blocks per factor, 4 (N - 1) complex parameters: as many as the FFT has twiddles.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 1e-7; all seeds to N = 128, fewer at 512 and 1024.
Time: 37 s on one H200.
Command: python -m experiments run configs/butterfly/recover_dft_tied.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the FFT with tied factors, the parametrization of the paper."""
    return RecoveryConfig(
        experiment="recover_dft_tied",
        transform="dft",
        sizes=(8, 16, 32, 64, 128, 256),
        tied=True,
        steps=3000,
        recovery_steps_goal=1000,
    )

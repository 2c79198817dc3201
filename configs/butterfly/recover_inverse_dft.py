"""Recover the inverse FFT from the inverse DFT matrix.

As recover_dft.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: as recover_dft; the paper has no row of its own for it.
Time: as recover_dft.
Command: python -m experiments run configs/butterfly/recover_inverse_dft.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the inverse FFT from the inverse DFT matrix."""
    return RecoveryConfig(
        experiment="recover_inverse_dft",
        transform="inverse_dft",
        steps=1000,
        recovery_steps_goal=500,
    )

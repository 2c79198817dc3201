"""Recover the Cooley-Tukey FFT from the DFT matrix.

Untied complex butterfly after the bit reversal; 16 seeds at once, Adam from Haar-random unitary
factors, float32 and float64, N = 8 .. 1024.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: RMSE 1e-8, relative error 1e-7 (float32), 1e-15 (float64), every seed; paper 3e-6 .. 8e-5.
Time: 1 minute on one H200; tens of minutes on a 2-core CPU (to N = 256: 2 minutes).
Command: python -m experiments run configs/butterfly/recover_dft.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the Cooley-Tukey FFT from the DFT matrix."""
    return RecoveryConfig(
        experiment="recover_dft",
        transform="dft",
        steps=1000,
        recovery_steps_goal=500,
        time_goals=(("phases.n1024_float32.seconds", 60.0),),
    )

"""The FFT at N = 64 from nothing to machine precision, against the clock.

Double precision, 16 seeds; the clock includes compilation.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 1e-15 within 60 s on a 2-core CPU.
Time: 10 s on a 2-core CPU.
Command: python -m experiments run configs/butterfly/recover_dft_64.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """The FFT at N = 64 from nothing to machine precision, against the clock."""
    return RecoveryConfig(
        experiment="recover_dft_64",
        transform="dft",
        sizes=(64,),
        dtypes=("float64",),
        steps=1000,
        recovery_steps_goal=500,
        time_goals=(("seconds.total", 60.0),),
    )

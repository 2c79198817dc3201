"""Recover the fast sine transform (type II) from its matrix.

Tied complex butterfly of which the real part is compared, as in the paper; fixed permutation
(even positions, then odd ones reversed, then bit reversal).

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 1e-7 for the best seeds, at least 70 % of the seeds below 1e-5.
Time: 55 s on one H200.
Command: python -m experiments run configs/butterfly/recover_dst.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the fast sine transform (type II) from its matrix."""
    return RecoveryConfig(
        experiment="recover_dst",
        transform="dst",
        tied=True,
        loss="real",
        column_permutation="cosine",
        steps=3000,
        rmse_goal=1e-06,
        relative_goal=1e-05,
        relative_goal_float64=1e-11,
        seed_fraction_goal=0.7,
        recovery_steps_goal=3000,
    )

"""Recover the DCT transform and its permutation.

Soft permutation with logits shared by all levels, rounded after the relaxation, refit.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: exact for at least 30 % of the seeds to N = 128, for at least one of 8 at 1024.
Time: half a minute on one H200 for N = 1024, 4 minutes on a 2-core CPU for N <= 128.
Command: python -m experiments run configs/butterfly/recover_dct_learned.py
"""

from experiments.butterfly.recovery.config import LearnedRecoveryConfig


def get_config() -> LearnedRecoveryConfig:
    """Recover the DCT transform and its permutation."""
    return LearnedRecoveryConfig(
        experiment="recover_dct_learned",
        transform="dct",
        tied=True,
        loss="real",
        extra_permutation=True,
        restarts=8,
        learning_rate=0.2,
    )

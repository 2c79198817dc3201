"""Recover the DFT transform and its permutation.

Soft permutation with logits shared by all levels, rounded after the relaxation, refit.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: exact for at least 30 % of the seeds to N = 128, for at least one of 8 at 1024.
Time: half a minute on one H200 for N = 1024, 4 minutes on a 2-core CPU for N <= 128.
Command: python -m experiments run configs/butterfly/recover_dft_learned.py
"""

from experiments.butterfly.recovery.config import LearnedRecoveryConfig


def get_config() -> LearnedRecoveryConfig:
    """Recover the DFT transform and its permutation."""
    return LearnedRecoveryConfig(
        experiment="recover_dft_learned",
        transform="dft",
        restarts=2,
        learning_rate=0.1,
    )

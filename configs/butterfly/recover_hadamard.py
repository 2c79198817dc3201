"""Recover the fast Walsh-Hadamard transform from its matrix.

Untied real butterfly, no permutation, random orthogonal factors.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: relative error 5e-8, every seed; paper 9e-7 .. 6e-5.
Time: 49 s on one H200.
Command: python -m experiments run configs/butterfly/recover_hadamard.py
"""

from experiments.butterfly.recovery.config import RecoveryConfig


def get_config() -> RecoveryConfig:
    """Recover the fast Walsh-Hadamard transform from its matrix."""
    return RecoveryConfig(
        experiment="recover_hadamard",
        transform="hadamard",
        is_complex=False,
        column_permutation="identity",
        steps=1500,
        recovery_steps_goal=1500,
    )

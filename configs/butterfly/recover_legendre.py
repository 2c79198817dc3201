"""Approximate the Legendre transform better than a sparse matrix does.

Untied complex butterfly, real part. Columns: each point beside its mirror image; rows: degrees of
one parity together, so that every rank-1 block of the butterfly is a smooth piece of the matrix.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: below the sparse matrix with as many entries as multiplications at every N.
Time: 32 s on one H200.
Command: python -m experiments run configs/butterfly/recover_legendre.py
"""

from experiments.butterfly.recovery.config import ApproximationConfig


def get_config() -> ApproximationConfig:
    """Approximate the Legendre transform better than a sparse matrix does."""
    return ApproximationConfig(
        experiment="recover_legendre",
        transform="legendre",
        loss="real",
        column_permutation="mirror",
        row_permutation="parity",
        dtypes=("float32",),
        steps=3000,
        learning_rate=0.05,
    )

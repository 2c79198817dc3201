"""Sparse, low rank and their sum at the butterfly's budget: the baselines of Figure 3.

Largest entries; singular value decomposition; both in turn, the best split of the budget. All with
2 N log2 N multiplications (4 N log2 N for the convolution, which spends two butterflies).

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3. Its own baselines differ: the
published sparse row of the DFT is not divided by sqrt(N), and those of the convolution have half
the budget.
Expected: never a recovery, except where the budget holds the whole matrix.
Time: 2 minutes on a 2-core CPU.
Command: python -m experiments run configs/butterfly/recovery_baselines.py
"""

from experiments.butterfly.recovery.baseline_experiment import BaselineConfig


def get_config() -> BaselineConfig:
    """Baselines of all rows and sizes of Figure 3."""
    return BaselineConfig()

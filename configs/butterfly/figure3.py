"""The heat map of Figure 3 from the stored results, beside the paper's.

Reads experiments/results/butterfly/recover_*.json and recovery_baselines.json.

Paper: Dao et al. 2019, arXiv:1903.05895, Figure 3.
Expected: every cell at or below the paper's.
Time: 2 s.
Command: python -m experiments run configs/butterfly/figure3.py
"""

from experiments.butterfly.recovery.figure3 import Figure3Config


def get_config() -> Figure3Config:
    """Heat map of all rows and sizes."""
    return Figure3Config()

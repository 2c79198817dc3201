"""Control: a random matrix, which no butterfly has.

Untied complex butterfly, real part.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.1, Figure 3.
Expected: RMSE at or below the paper's, 1.4e-1 .. 3.1e-2.
Time: 28 s on one H200.
Command: python -m experiments run configs/butterfly/recover_randn.py
"""

from experiments.butterfly.recovery.config import ControlConfig


def get_config() -> ControlConfig:
    """Control: a random matrix, which no butterfly has."""
    return ControlConfig(
        experiment="recover_randn",
        transform="randn",
        loss="real",
        dtypes=("float32",),
        steps=1000,
        learning_rate=0.05,
    )

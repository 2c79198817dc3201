"""Interatomic potentials of 3BPA: trained at 300 K, tested on held-out frames at 300, 600, 1200 K.

As acac.py. The published test sets are not used: test frames are those of train_mixedT that
train_300K does not hold, 136 at 300 K, 167 at 600 K and 166 at 1200 K, so that numbers stand beside
the paper's, but are of other frames ("3BPA-mixedT held-out").

Paper: Luo et al. 2024, arXiv:2401.10216, Table 2 (3BPA; 256 channels, up to 2000 epochs).
Expected: force errors of the paper's MACE 8.8, 21.8 and 62.0 meV/A (root mean square) and of its
MACE-Gaunt 9.2, 22.2 and 63.1; goals 13, 30 and 85, since independent reruns of MACE have 10.9 to
12.7 at 300 K.
Data: dataset_3BPA in $STRUCTLAYERS_DATA/botnet; the smoke preset makes its own molecule.
Hardware: one H200, 17 minutes and a minute a contraction to compile (predicted from counts of
kernels and bytes, experiments/potential/README.md); 15 minutes each of the first two beside four
other trainings. --contractions trains a part, `join` makes one result of them.
Command: python -m experiments run configs/equivariant/bpa.py
"""

from experiments.potential.config import PotentialConfig


def get_config() -> PotentialConfig:
    """All contractions, three seeds."""
    return PotentialConfig(experiment="bpa", datasets=("3bpa",))

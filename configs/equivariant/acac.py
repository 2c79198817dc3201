"""Interatomic potentials of acetylacetone: trained at 300 K, tested at 300 K and 600 K.

One message-passing potential (two layers, harmonics up to degree 3, features 0e + 1o + 2e of 64
channels, products of three neighbours) with several symmetric contractions: all Clebsch-Gordan
couplings as in MACE, or products on a grid of the sphere. 450 frames to train on, 50 to validate,
AMSGrad from 0.02, batches of 5, squared errors of energy by atom and forces 1 : 1000, moving
average 0.99, 500 epochs; three seeds side by side.

Paper: Batatia et al. 2022, arXiv:2206.07697 (MACE); Luo et al. 2024, arXiv:2401.10216 (the Gaunt
contraction, Table 2, and the recipe, there for 3BPA with 256 channels, up to 2000 epochs and a
learning rate of 0.01).
Expected: force errors at most 8 meV/A at 300 K and 32 meV/A at 600 K (root mean square), Gaunt
within 10 % of Clebsch-Gordan (there 4.5, 1.8 and 1.8 % on the three temperatures of 3BPA).
Data: dataset_acac in $STRUCTLAYERS_DATA/botnet; the smoke preset makes its own molecule.
Hardware: one H200. Four runs of a contraction side by side, with other work on the card, took 9 to
10.5 minutes, 3 of them to compile; --contractions trains a part, `join` makes one result of them.
Command: python -m experiments run configs/equivariant/acac.py
"""

from experiments.potential.config import PotentialConfig


def get_config() -> PotentialConfig:
    """All contractions, three seeds."""
    return PotentialConfig()

"""Time of a training step of an interatomic potential: Clebsch-Gordan, Gaunt on a grid, Fourier.

The potential of acac.py (64 channels, two layers, products of three neighbours) at degrees 2 to 4
with five contractions: all Clebsch-Gordan couplings, the Gaunt product on a grid of the sphere, the
same product by Fourier series on the torus, four Gaunt products summed, and the Gaunt product with
odd couplings beside it. Measured are steps of training (forces, gradient, update; three seeds side
by side, batches of 5 frames) and predictions of energy and forces, without compilation.

Paper: Xie et al. 2025, arXiv:2506.13523, "30 % faster": 374 s of Fourier products against 285 s on
the grid in 500 evaluations of a MACE-like potential, 1.31x; Luo et al. 2024, arXiv:2401.10216, for
the Fourier route. The second bound, no slower than Clebsch-Gordan, is the project's own.
Expected: Gaunt on the grid at most 0.77 times the Fourier step, and at most 1.0 times the
Clebsch-Gordan step.
Data: dataset_acac in $STRUCTLAYERS_DATA/botnet; the smoke preset makes its own molecule.
Hardware: one GPU; 5 minutes, most of them compilation (estimated).
Command: python -m experiments run configs/equivariant/potential_speed.py
"""

from experiments.potential.speed import PotentialSpeedConfig


def get_config() -> PotentialSpeedConfig:
    """Degrees 2 to 4, five contractions."""
    return PotentialSpeedConfig()

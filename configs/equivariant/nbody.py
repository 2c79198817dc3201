"""Charged particles: where five of them are 1,000 steps later, by two tensor products.

A network of SEGNN's kind (four layers of two products along every edge and two at every particle,
features 0e + 1o of 42 channels, 150,000 parameters) with Clebsch-Gordan and with Gaunt products,
the same in all else: at these parities both have the same couplings. Systems are simulated anew in
every run (seconds): 3,000 to train on, 2,000 to validate on, 2,000 to test on. Adam at 1e-3,
batches of 100, mean squared error, 1,000 epochs, the best of them by validation; three seeds side
by side.

Paper: Luo et al. 2024, arXiv:2401.10216 (both products in SEGNN; bars of a figure, to 0.1e-3);
Brandstetter et al. 2022, arXiv:2110.02905 (SEGNN, 4.3e-3; its recipe has a learning rate of 5e-4);
Satorras et al. 2021, arXiv:2102.09844 (the systems).
Expected: mean squared errors of at most 5.5e-3 (there 5.0e-3 and 4.8e-3), Gaunt at most 1.05 times
Clebsch-Gordan. --attribute-lmax 2 is the paper's second pair (5.2e-3 and 5.0e-3).
Hardware: one H200, 6 minutes and a minute a product to compile (predicted from counts of
kernels and bytes, experiments/equivariant/README.md); 15 minutes each beside five other trainings.
Command: python -m experiments run configs/equivariant/nbody.py
"""

from experiments.equivariant.nbody.config import ParticleConfig


def get_config() -> ParticleConfig:
    """Both products, three seeds."""
    return ParticleConfig()

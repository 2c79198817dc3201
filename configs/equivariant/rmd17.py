"""Interatomic potentials of ethanol, aspirin and naphthalene on revised MD17, 1,000 frames.

As acac.py, with 950 frames to train on and 50 to validate of split 01, and the 1,000 test frames of
the same split; errors are means of absolute values, as published. One seed.

Paper: Batatia et al. 2022, arXiv:2206.07697, Table 2: MACE with 256 channels.
Expected: force errors of the paper's MACE 2.1 (ethanol), 6.6 (aspirin) and 1.3 meV/A (naphthalene);
goals 2.7, 8.9 and 1.9, which an independent rerun of 1,000 epochs reached with 256 channels and
degrees up to 3 (github.com/kcheng0407/mace-rmd17-benchmark).
Data: rmd17 in $STRUCTLAYERS_DATA; the smoke preset makes its own molecule.
Hardware: one H200, about 40 minutes and a minute a training to compile (predicted from counts of
kernels and bytes, experiments/potential/README.md). Muon needs fewer epochs: 300 of all molecules
and contractions, six trainings at a time, took 13 minutes, 4 of them to compile (rmd17@muon).
--datasets and --contractions train a part, `join` makes one result of them.
Command: python -m experiments run configs/equivariant/rmd17.py
With Muon: python -m experiments run configs/equivariant/rmd17.py --optimizer muon
    --learning-rate 0.01 --epochs 300 --variant muon --store
"""

from experiments.potential.config import PotentialConfig


def get_config() -> PotentialConfig:
    """All contractions, one seed."""
    return PotentialConfig(
        experiment="rmd17",
        datasets=("rmd17_ethanol", "rmd17_aspirin", "rmd17_naphthalene"),
        seeds=1,
    )

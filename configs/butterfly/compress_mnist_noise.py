"""Compress a hidden layer, MNIST-noise rebuilt: digits in correlated noise.

Digits before correlated noise of uniform pixels; 12,000 to train, 50,000 to test, rebuilt by a seed
(experiments/data/mnist_variations.py): the published files are not used, so numbers compare methods
with each other, not with the paper's. Otherwise as compress_cifar10_grey.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.2, Table 1.
Expected: BPBP complex and real above the baselines (paper, published set: 77.0 and 75.0 %).
Data: $STRUCTLAYERS_DATA/mnist, the four idx files.
Time: 5 minutes on one H200; hours on a CPU.
Command: python -m experiments run configs/butterfly/compress_mnist_noise.py
"""

from experiments.butterfly.compression.config import CompressionConfig


def get_config() -> CompressionConfig:
    """All methods on the rebuilt MNIST-noise."""
    return CompressionConfig(experiment="compress_mnist_noise", dataset="mnist_noise")

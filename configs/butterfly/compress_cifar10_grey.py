"""Compress a hidden layer, CIFAR-10 in grey: butterflies against other structured matrices.

Structured 1024 x 1024 layer, ReLU, dense layer to 10 classes. SGD with momentum 0.9, batches of 50,
50 epochs, 15 % of the training images for validation; every method at nine learning rates and three
seeds, all at once. Tested is the epoch that is best on validation, reported the learning rate that
is. Products run at precision "default", which is TF32 on NVIDIA GPUs.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.2, Table 1.
Expected: BPBP complex 49.9 % at 16368 parameters, real 48.7 % at 8184, above all baselines.
Data: $STRUCTLAYERS_DATA/cifar10-grey, or cifar-10-binary.tar.gz in $STRUCTLAYERS_DATA/cifar10.
Time: 14 minutes on one H200, 10 of them for LDR-TD; hours on a CPU.
Command: python -m experiments run configs/butterfly/compress_cifar10_grey.py
"""

from experiments.butterfly.compression.config import CompressionConfig


def get_config() -> CompressionConfig:
    """All methods on CIFAR-10 in grey."""
    return CompressionConfig(
        experiment="compress_cifar10_grey",
        dataset="cifar10_grey",
        accuracy_goals=(("bpbp_complex", 49.9), ("bpbp_real", 48.7)),
    )

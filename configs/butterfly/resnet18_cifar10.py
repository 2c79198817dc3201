"""ResNet-18 on CIFAR-10 with a butterfly before the classifier.

A 512 x 512 layer with a ReLU between pooling and classifier: none, dense, or BPBP (two tied complex
butterflies with bit reversals). Stem 3 x 3 of stride 1 without pooling; SGD with momentum 0.9,
batches of 128, learning rate 0.1 times 0.2 every 25 of 100 epochs, weight decay 2e-4 (not of the
butterfly factors); random crops and mirror images. Tested after the last epoch, three seeds. The
ReLU and the batch are choices: the paper names neither.

Paper: Dao et al. 2019, arXiv:1903.05895, section 4.2 and appendix 8.
Expected: 94.0 % with BPBP, 93.9 % dense, 93.6 % without.
Data: cifar-10-binary.tar.gz in $STRUCTLAYERS_DATA/cifar10; the smoke preset uses synthetic images.
Time: 10 minutes a run and 90 in all on one H200 (estimated from operations, not measured).
Command: python -m experiments run configs/butterfly/resnet18_cifar10.py
"""

from experiments.butterfly.resnet.config import ResNetConfig


def get_config() -> ResNetConfig:
    """The three networks."""
    return ResNetConfig()

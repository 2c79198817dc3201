"""Flax nnx modules of the butterfly family: parameters and a call of the ops."""

from structlayers.butterfly.layers.butterfly_linear import ButterflyLinear
from structlayers.butterfly.layers.learned_permutation import LearnedPermutation
from structlayers.butterfly.layers.monarch_linear import MonarchLinear
from structlayers.butterfly.layers.orthogonal_butterfly import OrthogonalButterfly

__all__ = ["ButterflyLinear", "LearnedPermutation", "MonarchLinear", "OrthogonalButterfly"]

"""Flax nnx modules of the family: parameters and a call of the ops."""

from structlayers.structured.layers.circulant_linear import CirculantLinear
from structlayers.structured.layers.fastfood_linear import FastfoodLinear
from structlayers.structured.layers.ldr_linear import LDRLinear
from structlayers.structured.layers.low_rank_linear import LowRankLinear
from structlayers.structured.layers.toeplitz_like_linear import ToeplitzLikeLinear

__all__ = [
    "CirculantLinear",
    "FastfoodLinear",
    "LDRLinear",
    "LowRankLinear",
    "ToeplitzLikeLinear",
]

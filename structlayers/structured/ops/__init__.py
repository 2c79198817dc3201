"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.structured.ops.circulant import circulant_multiply, circulant_to_dense
from structlayers.structured.ops.fastfood import fastfood_multiply, fastfood_to_dense
from structlayers.structured.ops.ldr import ldr_multiply, ldr_to_dense
from structlayers.structured.ops.low_rank import low_rank_multiply, low_rank_to_dense
from structlayers.structured.ops.toeplitz_like import (
    toeplitz_like_multiply,
    toeplitz_like_to_dense,
)

__all__ = [
    "circulant_multiply",
    "circulant_to_dense",
    "fastfood_multiply",
    "fastfood_to_dense",
    "ldr_multiply",
    "ldr_to_dense",
    "low_rank_multiply",
    "low_rank_to_dense",
    "toeplitz_like_multiply",
    "toeplitz_like_to_dense",
]

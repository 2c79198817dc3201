"""Exact conversions between the forms of a butterfly, and the algebra that stays inside it."""

from structlayers.butterfly.convert.algebra import (
    butterfly_compose,
    butterfly_conjugate,
    butterfly_kronecker,
    butterfly_transpose,
    flip_stride_order,
    fold_diagonal,
)
from structlayers.butterfly.convert.monarch import blocks_to_monarch, monarch_to_blocks
from structlayers.butterfly.convert.radix import merge_blocks, merge_butterfly, split_blocks
from structlayers.butterfly.convert.tying import tie_butterfly, untie_butterfly

__all__ = [
    "blocks_to_monarch",
    "butterfly_compose",
    "butterfly_conjugate",
    "butterfly_kronecker",
    "butterfly_transpose",
    "flip_stride_order",
    "fold_diagonal",
    "merge_blocks",
    "merge_butterfly",
    "monarch_to_blocks",
    "split_blocks",
    "tie_butterfly",
    "untie_butterfly",
]

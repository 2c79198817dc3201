"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.butterfly.ops.block_multiply import block_butterfly_multiply
from structlayers.butterfly.ops.dense import butterfly_to_dense
from structlayers.butterfly.ops.multiply import butterfly_multiply

__all__ = ["block_butterfly_multiply", "butterfly_multiply", "butterfly_to_dense"]

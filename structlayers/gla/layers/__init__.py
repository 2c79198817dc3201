"""Flax nnx modules of the family: parameters and a call of the ops."""

from structlayers.gla.layers.gated_linear_attention import GatedLinearAttention
from structlayers.gla.layers.state import GatedLinearAttentionState

__all__ = ["GatedLinearAttention", "GatedLinearAttentionState"]

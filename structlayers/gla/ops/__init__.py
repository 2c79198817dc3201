"""Public operations of the family: they check arguments and choose the implementation."""

from structlayers.gla.ops.attention import gated_linear_attention
from structlayers.gla.ops.sequence_parallel import sequence_parallel_gated_linear_attention
from structlayers.gla.ops.short_convolution import short_convolution
from structlayers.gla.ops.step import (
    gated_linear_attention_decode,
    gated_linear_attention_step,
    states_in_place,
)

__all__ = [
    "gated_linear_attention",
    "gated_linear_attention_decode",
    "gated_linear_attention_step",
    "sequence_parallel_gated_linear_attention",
    "short_convolution",
    "states_in_place",
]

"""Gated linear attention: a matrix-valued state that decays by learned gates, linear in time.

Letters: `*B` leading batch axes, `T` time, `H` query heads, `G` key and value heads (H a multiple
of G), `K` and `V` their sizes, `C` tokens in a chunk, `S` packed sequences. The equations are in
the family's README.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from structlayers.gla.batch_invariance import batch_invariant
from structlayers.gla.low_memory import low_memory
from structlayers.gla.ops import (
    gated_linear_attention,
    gated_linear_attention_decode,
    gated_linear_attention_step,
    sequence_parallel_gated_linear_attention,
    short_convolution,
    states_in_place,
)

# Imported at first use (PEP 562): what needs Flax, and what only some programs call.
_LAZY = {
    "ARG_SPECS": "arg_specs",
    "GatedLinearAttention": "layers",
    "GatedLinearAttentionState": "layers",
}

if TYPE_CHECKING:
    from structlayers.gla.arg_specs import ARG_SPECS
    from structlayers.gla.layers import GatedLinearAttention, GatedLinearAttentionState

__all__ = [
    "ARG_SPECS",
    "GatedLinearAttention",
    "GatedLinearAttentionState",
    "batch_invariant",
    "gated_linear_attention",
    "gated_linear_attention_decode",
    "gated_linear_attention_step",
    "low_memory",
    "sequence_parallel_gated_linear_attention",
    "short_convolution",
    "states_in_place",
]


def __getattr__(name: str) -> Any:
    """Imports a lazy public name at first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
